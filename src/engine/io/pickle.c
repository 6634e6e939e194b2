/*
 * engine/io/pickle.c
 *		Run the part of Python's pickle format that state dicts use.
 *
 * The machine has a stack and a memo, both of pointers to values that live
 * until the EngPickle is freed.  A list or dict may be filled after it has
 * been put into another, as in Python.  Limits keep a hostile file from
 * growing: values, stack, memo and the size of the pickle itself.
 */
#include "engine/io/pickle.h"
#include "engine/io/pickle_objects.h"

#include <stdlib.h>
#include <string.h>

#define MAX_STACK		1000000
#define MAX_NAME		4096	/* bytes of a module's name and another */

typedef struct Machine
{
	EngPickle  *pickle;
	const uint8_t *start;
	const uint8_t *at;
	const uint8_t *end;
	EngPickleValue **stack;
	size_t		depth;
	size_t		stack_capacity;
	EngPickleValue **memo;		/* NULL where nothing was put */
	size_t		memo_capacity;
	EngStatus  *status;
} Machine;

static bool
pickle_fail(Machine *machine, const char *what)
{
	eng_fail(machine->status, ENG_BAD_FILE, "pickle: %s at byte %zu", what,
			 (size_t) (machine->at - machine->start));
	return false;
}

static EngPickleValue *
make(Machine *machine, EngPickleType type)
{
	return eng_pickle_make(machine->pickle, type, machine->status);
}

/*
 * Make room for one more pointer.
 */
static bool
grow(Machine *machine, EngPickleValue ***items, size_t count,
	 size_t *capacity)
{
	size_t		larger = *capacity * 2 + 8;
	EngPickleValue **moved;

	if (count < *capacity)
		return true;
	moved = realloc(*items, sizeof(**items) * larger);
	if (moved == NULL)
		return eng_fail(machine->status, ENG_NO_MEMORY,
						"could not allocate values");
	*items = moved;
	*capacity = larger;
	return true;
}

static bool
push(Machine *machine, EngPickleValue *value)
{
	if (value == NULL)
		return false;
	if (machine->depth >= MAX_STACK)
		return pickle_fail(machine, "stack is too deep");
	if (!grow(machine, &machine->stack, machine->depth,
			  &machine->stack_capacity))
		return false;
	machine->stack[machine->depth++] = value;
	return true;
}

static bool
push_new(Machine *machine, EngPickleType type, int64_t integer)
{
	EngPickleValue *value = make(machine, type);

	if (value != NULL)
		value->integer = integer;
	return push(machine, value);
}

/*
 * The topmost value, still on the stack; a mark is no value.
 */
static EngPickleValue *
top(Machine *machine)
{
	if (machine->depth == 0 ||
		machine->stack[machine->depth - 1]->type == ENG_PICKLE_MARK)
	{
		pickle_fail(machine, "stack is empty");
		return NULL;
	}
	return machine->stack[machine->depth - 1];
}

static EngPickleValue *
pop(Machine *machine)
{
	EngPickleValue *value = top(machine);

	if (value != NULL)
		machine->depth--;
	return value;
}

/*
 * Where the values above the last mark start.
 */
static bool
find_mark(Machine *machine, size_t *first)
{
	size_t		i = machine->depth;

	while (i > 0 && machine->stack[i - 1]->type != ENG_PICKLE_MARK)
		i--;
	if (i == 0)
		return pickle_fail(machine, "mark is missing");
	*first = i;
	return true;
}

/*
 * Take size bytes of the pickle.
 */
static bool
take(Machine *machine, size_t size, const uint8_t **bytes)
{
	if ((size_t) (machine->end - machine->at) < size)
		return pickle_fail(machine, "cut off");
	*bytes = machine->at;
	machine->at += size;
	return true;
}

static bool
take_number(Machine *machine, int size, uint64_t *value)
{
	const uint8_t *bytes;

	if (!take(machine, size, &bytes))
		return false;
	*value = 0;
	while (size-- > 0)
		*value = *value << 8 | bytes[size];
	return true;
}

static bool
read_string(Machine *machine, int length_bytes)
{
	const uint8_t *bytes;
	uint64_t	length;
	EngPickleValue *value;

	if (!take_number(machine, length_bytes, &length))
		return false;
	if (length > ENG_PICKLE_MAX_TEXT)
		return pickle_fail(machine, "string is too long");
	if (!take(machine, (size_t) length, &bytes))
		return false;
	if (memchr(bytes, '\0', (size_t) length) != NULL)
		return pickle_fail(machine, "string holds a zero byte");
	value = make(machine, ENG_PICKLE_STRING);
	if (value == NULL)
		return false;
	value->text = eng_pickle_keep(machine->pickle, bytes, (size_t) length,
								  machine->status);
	value->length = (size_t) length;
	return value->text != NULL && push(machine, value);
}

/*
 * LONG1: two's complement of any length; over 8 bytes it is kept as bytes.
 */
static bool
read_long(Machine *machine)
{
	const uint8_t *bytes;
	uint64_t	length;
	EngPickleValue *value;
	uint64_t	number = 0;
	int			i;

	if (!take_number(machine, 1, &length) ||
		!take(machine, (size_t) length, &bytes))
		return false;
	if (length > 8)
	{
		value = make(machine, ENG_PICKLE_LONG);
		if (value == NULL)
			return false;
		value->text = (const char *) bytes;
		value->length = (size_t) length;
		return push(machine, value);
	}
	if (length > 0 && (bytes[length - 1] & 0x80) != 0)
		number = UINT64_MAX;
	for (i = (int) length - 1; i >= 0; i--)
		number = number << 8 | bytes[i];
	return push_new(machine, ENG_PICKLE_INTEGER, (int64_t) number);
}

/*
 * The two lines of a GLOBAL.
 */
static bool
read_global(Machine *machine)
{
	const uint8_t *start = machine->at;
	const uint8_t *middle;
	const uint8_t *last;
	const char *module;
	const char *name;
	int			known;

	middle = memchr(start, '\n', (size_t) (machine->end - start));
	last = middle == NULL ? NULL :
		memchr(middle + 1, '\n', (size_t) (machine->end - middle - 1));
	if (last == NULL || last - start > MAX_NAME)
		return pickle_fail(machine, "name is cut off or too long");
	module = eng_pickle_keep(machine->pickle, start,
							 (size_t) (middle - start), machine->status);
	name = eng_pickle_keep(machine->pickle, middle + 1,
						   (size_t) (last - middle - 1), machine->status);
	if (module == NULL || name == NULL)
		return false;
	machine->at = last + 1;
	known = eng_pickle_global_find(module, name);
	if (known < 0)
		return eng_fail(machine->status, ENG_UNSUPPORTED,
						"pickle names \"%.100s %.100s\": %s", module, name,
						eng_pickle_refusal(module, name));
	return push_new(machine, ENG_PICKLE_GLOBAL, known);
}

static bool
put_memo(Machine *machine, uint64_t index)
{
	EngPickleValue *value = top(machine);

	if (value == NULL)
		return false;
	if (index >= MAX_STACK)
		return pickle_fail(machine, "memo is too large");
	while (index >= machine->memo_capacity)
	{
		size_t		before = machine->memo_capacity;

		if (!grow(machine, &machine->memo, before, &machine->memo_capacity))
			return false;
		memset(machine->memo + before, 0,
			   sizeof(*machine->memo) * (machine->memo_capacity - before));
	}
	machine->memo[index] = value;
	return true;
}

static bool
get_memo(Machine *machine, uint64_t index)
{
	if (index >= machine->memo_capacity || machine->memo[index] == NULL)
		return pickle_fail(machine, "memo has no such entry");
	return push(machine, machine->memo[index]);
}

static bool
append(Machine *machine, EngPickleValue *container, EngPickleValue *item)
{
	if (!grow(machine, &container->items, container->count,
			  &container->capacity))
		return false;
	container->items[container->count++] = item;
	return true;
}

/*
 * A tuple of the values from first on takes their place.
 */
static bool
make_tuple(Machine *machine, size_t first, size_t marks)
{
	EngPickleValue *tuple = make(machine, ENG_PICKLE_TUPLE);
	size_t		i;

	if (tuple == NULL)
		return false;
	for (i = first; i < machine->depth; i++)
		if (machine->stack[i]->type == ENG_PICKLE_MARK)
			return pickle_fail(machine, "mark inside a tuple");
		else if (!append(machine, tuple, machine->stack[i]))
			return false;
	machine->depth = first - marks;
	return push(machine, tuple);
}

static bool
make_short_tuple(Machine *machine, size_t count)
{
	if (machine->depth < count)
		return pickle_fail(machine, "stack is empty");
	return make_tuple(machine, machine->depth - count, 0);
}

static bool
make_marked_tuple(Machine *machine)
{
	size_t		first;

	return find_mark(machine, &first) && make_tuple(machine, first, 1);
}

/*
 * Move the values from first on into the container below them (and below
 * the mark, if there is one).
 */
static bool
fill(Machine *machine, EngPickleType type, size_t first, size_t marks)
{
	EngPickleValue *container;
	size_t		i;

	if (first < marks + 1 || first > machine->depth)
		return pickle_fail(machine, "stack is empty");
	container = machine->stack[first - marks - 1];
	if (container->type != type)
		return pickle_fail(machine, "items for what is no list or dict");
	if (type == ENG_PICKLE_DICT && (machine->depth - first) % 2 != 0)
		return pickle_fail(machine, "key without a value");
	for (i = first; i < machine->depth; i++)
		if (machine->stack[i]->type == ENG_PICKLE_MARK)
			return pickle_fail(machine, "mark inside a container");
		else if (!append(machine, container, machine->stack[i]))
			return false;
	machine->depth = first - marks;
	return true;
}

static bool
fill_marked(Machine *machine, EngPickleType type)
{
	size_t		first;

	return find_mark(machine, &first) && fill(machine, type, first, 1);
}

static bool
fill_last(Machine *machine, EngPickleType type, size_t count)
{
	if (machine->depth < count)
		return pickle_fail(machine, "stack is empty");
	return fill(machine, type, machine->depth - count, 0);
}

/*
 * Call a name of the table, or make an object of a class (NEWOBJ); its value
 * is computed by pickle_objects.c.
 */
static bool
reduce(Machine *machine, bool is_new)
{
	EngPickleValue *arguments = pop(machine);
	EngPickleValue *callee = arguments != NULL ? pop(machine) : NULL;
	EngPickleValue *result;

	if (callee == NULL)
		return false;
	if (callee->type != ENG_PICKLE_GLOBAL ||
		arguments->type != ENG_PICKLE_TUPLE)
		return pickle_fail(machine, "call of what is no function");
	/* the rule may copy a list, as often as the pickle asks */
	if (arguments->count > 0)
		eng_pickle_charge(machine->pickle, arguments->items[0]->count);
	result = make(machine, ENG_PICKLE_NONE);
	return result != NULL &&
		(is_new ? eng_pickle_new : eng_pickle_call)
		(result, (int) callee->integer, arguments, machine->status) &&
		push(machine, result);
}

static bool
persistent(Machine *machine)
{
	EngPickleValue *id = pop(machine);
	EngPickleValue *result = id != NULL ?
		make(machine, ENG_PICKLE_STORAGE) : NULL;

	return result != NULL &&
		eng_pickle_storage(result, id, machine->status) &&
		eng_pickle_list_storage(machine->pickle, &result->storage,
								machine->status) &&
		push(machine, result);
}

/*
 * BUILD gives an object its attributes.  A state dict's are kept: a table of
 * versions in torch's files, texts about the weights in ours.
 */
static bool
build(Machine *machine)
{
	EngPickleValue *state = pop(machine);
	EngPickleValue *object = state != NULL ? top(machine) : NULL;

	if (object == NULL)
		return false;
	if ((object->type != ENG_PICKLE_DICT &&
		 object->type != ENG_PICKLE_OPAQUE) ||
		state->type != ENG_PICKLE_DICT)
		return pickle_fail(machine, "attributes for what is no dict");
	object->attributes = state;
	return true;
}

static bool
read_float(Machine *machine)
{
	const uint8_t *bytes;

	/* no state dict's tensor needs a float: its value is not kept */
	return take(machine, 8, &bytes) &&
		push_new(machine, ENG_PICKLE_FLOAT, 0);
}

static bool
read_integer(Machine *machine, int size)
{
	uint64_t	value;

	if (!take_number(machine, size, &value))
		return false;
	if (size == 4)
		value = (uint64_t) (int64_t) (int32_t) value;
	return push_new(machine, ENG_PICKLE_INTEGER, (int64_t) value);
}

static bool
memo_operation(Machine *machine, bool put, int size)
{
	uint64_t	index;

	if (!take_number(machine, size, &index))
		return false;
	return put ? put_memo(machine, index) : get_memo(machine, index);
}

static bool
read_protocol(Machine *machine)
{
	uint64_t	version;

	if (!take_number(machine, 1, &version))
		return false;
	if (version != 2)
		return eng_fail(machine->status, ENG_UNSUPPORTED,
						"pickle protocol %d is not read, but 2",
						(int) version);
	return true;
}

/*
 * Operations that push one plain value; any other is refused.
 */
static bool
run_scalar(Machine *machine, uint8_t operation)
{
	switch (operation)
	{
		case 'N':
			return push_new(machine, ENG_PICKLE_NONE, 0);
		case 0x88:
		case 0x89:
			return push_new(machine, ENG_PICKLE_BOOLEAN, operation == 0x88);
		case 'J':
			return read_integer(machine, 4);
		case 'K':
			return read_integer(machine, 1);
		case 'M':
			return read_integer(machine, 2);
		case 0x8a:
			return read_long(machine);
		case 'G':
			return read_float(machine);
		case 'X':
			return read_string(machine, 4);
		case 'U':
			return read_string(machine, 1);
		default:
			machine->at--;
			return eng_fail(machine->status, ENG_UNSUPPORTED,
							"pickle: operation 0x%02x at byte %zu is not allowed",
							operation,
							(size_t) (machine->at - machine->start));
	}
}

static bool
run_one(Machine *machine, uint8_t operation)
{
	switch (operation)
	{
		case 0x80:
			return read_protocol(machine);
		case '(':
			return push(machine, make(machine, ENG_PICKLE_MARK));
		case 't':
			return make_marked_tuple(machine);
		case ')':
			return make_short_tuple(machine, 0);
		case 0x85:
		case 0x86:
		case 0x87:
			return make_short_tuple(machine, operation - 0x84);
		case '}':
			return push_new(machine, ENG_PICKLE_DICT, 0);
		case ']':
			return push_new(machine, ENG_PICKLE_LIST, 0);
		case 'q':
		case 'r':
			return memo_operation(machine, true, operation == 'q' ? 1 : 4);
		case 'h':
		case 'j':
			return memo_operation(machine, false, operation == 'h' ? 1 : 4);
		case 's':
			return fill_last(machine, ENG_PICKLE_DICT, 2);
		case 'u':
			return fill_marked(machine, ENG_PICKLE_DICT);
		case 'a':
			return fill_last(machine, ENG_PICKLE_LIST, 1);
		case 'e':
			return fill_marked(machine, ENG_PICKLE_LIST);
		case 'c':
			return read_global(machine);
		case 'R':
		case 0x81:
			return reduce(machine, operation != 'R');
		case 'b':
			return build(machine);
		case 'Q':
			return persistent(machine);
		default:
			return run_scalar(machine, operation);
	}
}

static EngPickleValue *
run(Machine *machine)
{
	EngPickleValue *result;

	for (;;)
	{
		const uint8_t *operation;

		if (!take(machine, 1, &operation))
			return NULL;
		if (*operation == '.')
			break;
		if (!run_one(machine, *operation))
			return NULL;
	}
	result = pop(machine);
	if (result != NULL && machine->depth != 0)
	{
		pickle_fail(machine, "values are left over");
		return NULL;
	}
	return result;
}

const EngPickleValue *
eng_pickle_read(EngPickle *pickle, const uint8_t **at, const uint8_t *end,
				EngStatus *status)
{
	Machine		machine = {.pickle = pickle, .start = *at, .at = *at,
		.end = end, .status = status};
	EngPickleValue *result;

	if ((size_t) (end - *at) > ENG_PICKLE_MAX_BYTES)
		machine.end = *at + ENG_PICKLE_MAX_BYTES;
	result = run(&machine);
	free(machine.stack);
	free(machine.memo);
	*at = machine.at;
	return result;
}
