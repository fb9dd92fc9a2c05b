"""The commands of `mixer`, by what they are about. Each is a function that cli.py registers; nothing heavy is imported on top."""
