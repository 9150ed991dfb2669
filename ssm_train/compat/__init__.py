"""What other packages need before this project can use them, one package a module."""
