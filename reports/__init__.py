"""Records of runs, comparisons of two records, and the page that shows one; knows nothing of how a record was made.

record    one run as JSON Lines: Recorder writes it, load reads it
compare   what became worse between two records
page      one record as one HTML file
"""
