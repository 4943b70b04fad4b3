/* The same as C++: the headers declare everything extern "C". */
#include "face.c"
