"""One file a layout: how data of a project or format is recognised and read."""
