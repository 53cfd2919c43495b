"""Scenes as files: the formats that are read, around nerfstudio's dataparsers, and cameras written as files."""
