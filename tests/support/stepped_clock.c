/* Preloaded into a server: its wall clock is ahead of the machine's by the seconds in the file STEPPED_CLOCK (a 64-bit integer).
   Its monotonic clock is left alone, as on a machine whose clock is set. Nothing here allocates: a server's allocator reads the
   clock before anything else runs. It needs no header, so a compiler alone is enough. */

#if defined(__x86_64__)
#define CLOCK_GETTIME 228
#elif defined(__aarch64__)
#define CLOCK_GETTIME 113
#endif

struct seconds { long whole, rest; };
extern long syscall(long number, ...);
extern char *getenv(const char *name);
extern int open(const char *path, int flags, ...);
extern void *mmap(void *at, unsigned long length, int protection, int flags, int file, long from);

static volatile long *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("STEPPED_CLOCK");
    int file = path ? open(path, 0) : -1;
    if (file >= 0) ahead = mmap(0, 8, 1, 1, file, 0); /* to read, shared */
}

int clock_gettime(int clock, struct seconds *now) {
    long failed = syscall(CLOCK_GETTIME, clock, now);
    if (!failed && (clock == 0 || clock == 5) && ahead) now->whole += *ahead; /* the wall clock, and its coarse one */
    return failed;
}

int gettimeofday(struct seconds *now, void *zone) {
    (void)zone;
    int failed = clock_gettime(0, now);
    now->rest /= 1000;
    return failed;
}

long time(long *now) {
    struct seconds read;
    clock_gettime(0, &read);
    if (now) *now = read.whole;
    return read.whole;
}
