"""What is said of a wrong recipe: the nearest key, words of other toolkits, refusals."""
