"""Messages on errors in recipes: the nearest key, synonyms of other toolkits, refusals."""
