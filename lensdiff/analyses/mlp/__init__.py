"""Which concepts the feed-forward layers hold, and how far they turned."""
