"""Finding and reading the files of datasets: lists, annotations, class names. No torch here."""
