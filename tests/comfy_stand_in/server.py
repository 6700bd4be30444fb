"""Stand-in: the line of text that a node shows after it ran."""

FOR_TESTS = ("notes",)
notes: dict[str, str] = {}


class PromptServer:
    instance: "PromptServer"

    def send_progress_text(self, text, node_id):
        notes[node_id] = text


PromptServer.instance = PromptServer()
