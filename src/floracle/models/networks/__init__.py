"""The networks of this library and of other projects."""
