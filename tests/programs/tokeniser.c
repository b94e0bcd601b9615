/* A state machine over text: words, numbers, strings, comments and operators of a small language. */
#include "guest.h"

#ifndef N
#define N 200
#endif

static const char text[] =
	"static int walk(struct node *n, int depth) {\n"
	"\t/* stop at a leaf */\n"
	"\tif (n == NULL || depth >= 0x1f) return 42;\n"
	"\tprint(\"depth %d\\n\", depth + 1);\n"
	"\treturn walk(n->left, depth + 1) * 31 + walk(n->right, depth << 2); // both\n"
	"}\n";

enum state { START, WORD, NUMBER, HEX, STRING, ESCAPE, SLASH, COMMENT, STAR, LINE, OPERATOR, STATES };

static volatile unsigned length = N; /* characters; the text repeats */
static uint32_t counts[STATES];

static int is_alpha(char c) { return (c | 32) >= 'a' && ((c | 32) <= 'z' || c == '_'); }
static int is_digit(char c) { return c >= '0' && c <= '9'; }

static noinline enum state next(enum state state, char c)
{
	switch (state) {
	case STRING:
		return c == '\\' ? ESCAPE : c == '"' ? START : STRING;
	case ESCAPE:
		return STRING;
	case SLASH:
		if (c == '*')
			return COMMENT;
		if (c == '/')
			return LINE;
		break;
	case COMMENT:
		return c == '*' ? STAR : COMMENT;
	case STAR:
		return c == '/' ? START : c == '*' ? STAR : COMMENT;
	case LINE:
		return c == '\n' ? START : LINE;
	case WORD:
		if (is_alpha(c) || is_digit(c) || c == '_')
			return WORD;
		break;
	case NUMBER:
		if (c == 'x')
			return HEX;
		if (is_digit(c))
			return NUMBER;
		break;
	case HEX:
		if (is_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'f'))
			return HEX;
		break;
	default:
		break;
	}
	if (is_alpha(c))
		return WORD;
	if (is_digit(c))
		return NUMBER;
	switch (c) {
	case ' ': case '\t': case '\n':
		return START;
	case '"':
		return STRING;
	case '/':
		return SLASH;
	default:
		return OPERATOR;
	}
}

static noinline uint32_t scan(unsigned n)
{
	enum state state = START;
	uint32_t hash = 0, sum = 0;

	for (const char *s = text; n--; s = s[1] ? s + 1 : text) {
		enum state to = next(state, *s);
		if (to != state) {
			counts[to]++;
			sum = fold(sum, hash + to);
			hash = 0;
		}
		hash = hash * 31 + (uint8_t)*s;
		state = to;
	}
	return sum;
}

int main(void)
{
	uint32_t sum = scan(length);

	for (int i = 0; i < STATES; i++)
		sum = fold(sum, counts[i]);
	report("tokeniser", sum);
	return 0;
}
