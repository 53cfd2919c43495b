# First of all of nerfstudio: this and nerfstudio.utils.writer import each other, which works in this order alone.
import nerfstudio.configs.base_config  # noqa: F401  # pyright: ignore[reportUnusedImport]
