# Writes the ratings of lecturers by students at ETH Zurich (InstEval of the R package lme4) as numbers, a rating a
# line:   Rscript ratings.R ratings.csv
#     apt-get install r-cran-lme4
path <- commandArgs(trailingOnly = TRUE)[1]
data(InstEval, package = "lme4")
number <- function(factor) as.integer(as.character(factor))
columns <- c(lapply(InstEval[c("s", "d", "service", "dept", "studage", "lectage")], number), list(rating = InstEval$y))
write.csv(as.data.frame(columns), path, row.names = FALSE, quote = FALSE)
