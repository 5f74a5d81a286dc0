"""Facts about people, stated once in a text and asked for in a conversation."""
