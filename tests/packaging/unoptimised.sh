#!/bin/sh
# A compiler for wheels that are only looked at: what it leaves undone nobody misses there, and it is
# two thirds of a compiler's time. OPTIMISING: the compiler it stands for, c++ unless told.
exec ${OPTIMISING:-c++} "$@" -O0
