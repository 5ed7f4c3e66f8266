// Adagrad with one sum of squares for each column block of a row (row-wise Adagrad): squares += the
// mean of g*g over the block; the rest is Adagrad's (adagrad.h).
#pragma once

#include "pserver/table/optimizers/rule.h"  // kRowAdagradRule
