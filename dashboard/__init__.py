"""The page that operators work in: it reads views and sends commands."""
