"""Stand-in: what a node shows."""


class PreviewImage:
    def __init__(self, image, cls=None):
        self.image = image

    def as_dict(self):
        return {"images": [{"filename": f"{i}.png"} for i in range(len(self.image))], "animated": (False,)}


class PreviewText:
    def __init__(self, value):
        self.value = value

    def as_dict(self):
        return {"text": (self.value,)}
