"""Stand-in: where models lie."""

models_dir = "models"
supported_pt_extensions = {".pth", ".safetensors"}
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {}


def get_temp_directory():
    return temporary


temporary = "temp"
FOR_TESTS = ("temporary",)
