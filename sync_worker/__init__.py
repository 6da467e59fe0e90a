"""An update's life: validate, approve, release, reload, confirm or roll back."""
