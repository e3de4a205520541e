"""The methods that BLCF is compared with, and the rows of the tables that compare them."""
