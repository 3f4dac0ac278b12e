"""Results as files and as Markdown."""
