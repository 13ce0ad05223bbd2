"""What is odd about a data set: broken splits, duplicates, likely label errors, outliers."""
