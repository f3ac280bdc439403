"""What people read: the page of runs, the table of results, what there is, and data that is looked through."""
