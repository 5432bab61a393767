"""The built-in metrics of predictions, one file each; those of a user's own are files of the same form, named by --plugin."""
