/* Each file is compiled once for each level of instructions, its functions named after the level. */
#ifndef LEVEL_NAME
#define LEVEL_NAME baseline
#endif
#define LEVEL_JOIN(name, level) ckptclamp_##name##_##level
#define LEVEL_OF(name, level) LEVEL_JOIN(name, level)
#define LEVEL(name) LEVEL_OF(name, LEVEL_NAME)
