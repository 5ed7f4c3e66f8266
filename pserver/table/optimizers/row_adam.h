// Adam with one second moment for each column block of a row (row-wise Adam): v = beta2*v +
// (1-beta2) * the mean of g*g over the block; the rest is Adam's (adam.h).
#pragma once

#include "pserver/table/optimizers/rule.h"  // kRowAdamRule
