/* Functions to be traced: names are opened and closed, with a table of open files that fills, and a sum that recurses. */
#include "guest.h"

#ifndef N
#define N 3
#endif

#define FILES 4
#define WILD ((const char *)0x7f0000000000) /* unmapped; nobody here reads it */

struct file {
	const char *name;
	uint32_t mode;
	uint16_t links;
	char tag[4];
};

int do_open(const char *path, int flags, uint32_t mode);
int do_close(int fd);
long depth(long n);

static volatile unsigned rounds = N;
static struct file files[FILES];

/* Open a file; return its number, or -2 without a name (ENOENT) and -24 without room (EMFILE). */
noinline int do_open(const char *path, int flags, uint32_t mode)
{
	if (!path)
		return -2;
	for (int fd = 0; fd < FILES; fd++) {
		struct file *f = &files[fd];

		if (f->name)
			continue;
		f->name = path;
		f->mode = mode;
		f->links = (uint16_t)flags;
		memcpy(f->tag, "test", 4);
		return fd;
	}
	return -24;
}

/* Close a file; return 0, or -9 when it is not open (EBADF). */
noinline int do_close(int fd)
{
	if (fd < 0 || fd >= FILES || !files[fd].name)
		return -9;
	files[fd].name = NULL;
	return 0;
}

/* Return 0 + 1 + ... + n, by recursion. */
noinline long depth(long n)
{
	long below = n ? depth(n - 1) : 0;

	asm volatile("" ::: "memory");
	return below + n;
}

int main(void)
{
	static const char *const names[] = { "/etc/passwd", "/dev/null", NULL, WILD, "b", "c" };
	uint32_t sum = 0;

	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
			sum = fold(sum, (uint32_t)do_open(names[i], (int)(i | round << 4), 0644));
		for (int fd = 0; fd <= FILES; fd++)
			sum = fold(sum, (uint32_t)do_close(fd));
		sum = fold(sum, (uint32_t)depth(5));
	}
	report("opens", sum);
	return 0;
}
