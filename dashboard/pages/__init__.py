"""One module for each page: `page(views, commands)` draws it once, from rows."""
