"""One number in the text of a book, asked for segments later."""
