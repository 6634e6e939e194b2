/*
 * engine/core/placement.c
 *		A place in one arena for everything that a plan keeps.
 *
 * Pieces whose lives do not meet may share memory.  First fit with large
 * pieces first comes close to the most bytes alive at once, below which no
 * placement can go; two other orders are tried as well.
 */
#include "engine/core/plan.h"

#include <stdlib.h>

#include "engine/core/arena.h"

/* Value, gradient or private memory of an operation. */
typedef struct Piece
{
	size_t		size;
	size_t	   *target;			/* where the offset goes */
	int32_t		first;			/* life */
	int32_t		last;
	int32_t		order;			/* makes sorts total */
	size_t		offset;
} Piece;

typedef struct Pieces
{
	Piece	   *list;
	Piece	  **placed;			/* sorted by offset */
	int32_t		count;
} Pieces;

static void
add_piece(Pieces *pieces, size_t size, size_t *target, int32_t first,
		  int32_t last)
{
	Piece	   *piece = &pieces->list[pieces->count];

	if (size == 0)
		return;
	*piece = (Piece) {eng_align(size), target, first, last, pieces->count, 0};
	pieces->count++;
}

static int
by_order(const Piece *left, const Piece *right)
{
	return left->order - right->order;
}

static int
by_size(const void *a, const void *b)
{
	const Piece *left = a;
	const Piece *right = b;

	if (left->size != right->size)
		return left->size < right->size ? 1 : -1;
	return by_order(left, right);
}

static int
by_life(const void *a, const void *b)
{
	const Piece *left = a;
	const Piece *right = b;
	int32_t		x = left->last - left->first;
	int32_t		y = right->last - right->first;

	return x != y ? (x < y ? 1 : -1) : by_size(a, b);
}

static int
by_area(const void *a, const void *b)
{
	const Piece *left = a;
	const Piece *right = b;
	double		x = (double) left->size * (left->last - left->first + 1);
	double		y = (double) right->size * (right->last - right->first + 1);

	return x != y ? (x < y ? 1 : -1) : by_order(left, right);
}

/*
 * First fit in the order of the list: the lowest offset at which a piece
 * meets no other of an overlapping life.  Returns the bytes of the arena.
 */
static size_t
place_pieces(Pieces *pieces, bool keep_all)
{
	size_t		total = 0;
	int32_t		i;
	int32_t		j;

	for (i = 0; i < pieces->count; i++)
	{
		Piece	   *piece = &pieces->list[i];
		size_t		offset = 0;

		for (j = 0; j < i; j++)
		{
			const Piece *other = pieces->placed[j];

			if (!keep_all && (other->last < piece->first ||
							  other->first > piece->last))
				continue;
			if (offset + piece->size <= other->offset)
				break;
			if (other->offset + other->size > offset)
				offset = other->offset + other->size;
		}
		piece->offset = offset;
		if (offset + piece->size > total)
			total = offset + piece->size;
		for (j = i; j > 0 && pieces->placed[j - 1]->offset > offset; j--)
			pieces->placed[j] = pieces->placed[j - 1];
		pieces->placed[j] = piece;
	}
	return total;
}

/*
 * The best of the orders; its offsets go to their targets.
 */
static size_t
place_best(Pieces *pieces, bool keep_all)
{
	static int	(*const orders[]) (const void *, const void *) = {
		by_size, by_life, by_area
	};
	size_t		best = SIZE_MAX;
	size_t		i;
	int32_t		j;

	for (i = 0; i < sizeof(orders) / sizeof(orders[0]); i++)
	{
		size_t		total;

		qsort(pieces->list, pieces->count, sizeof(Piece), orders[i]);
		total = place_pieces(pieces, keep_all);
		if (total >= best)
			continue;
		best = total;
		for (j = 0; j < pieces->count; j++)
			*pieces->list[j].target = pieces->list[j].offset;
	}
	return best;
}

/*
 * Most bytes alive at one time.
 */
static size_t
live_peak(const Pieces *pieces)
{
	size_t		peak = 0;
	int32_t		i;
	int32_t		j;

	for (i = 0; i < pieces->count; i++)
	{
		int32_t		now = pieces->list[i].first;
		size_t		sum = 0;

		for (j = 0; j < pieces->count; j++)
			if (pieces->list[j].first <= now && pieces->list[j].last >= now)
				sum += pieces->list[j].size;
		if (sum > peak)
			peak = sum;
	}
	return peak;
}

static void
add_tensor(EngPlan *plan, Pieces *pieces, int32_t index)
{
	EngTensor  *tensor = &plan->tensors[index];
	size_t		size = eng_tensor_bytes(tensor);

	if (tensor->root == index && tensor->last >= 0)
		add_piece(pieces, size, &tensor->offset, tensor->first, tensor->last);
	if (tensor->again_first >= 0)
		add_piece(pieces, size, &tensor->again_offset, tensor->again_first,
				  tensor->again_last);
	if (tensor->grad_first >= 0 && tensor->grad_root == index)
		add_piece(pieces, size, &tensor->grad_offset, tensor->grad_first,
				  tensor->grad_last);
	tensor->grad_seen = plan->request.keep_all && tensor->name[0] != '\0' &&
		tensor->grad_first >= 0;
	if (tensor->grad_seen)
		add_piece(pieces, size, &tensor->seen_offset, tensor->grad_first,
				  tensor->grad_last);
}

/*
 * What an operation leaves for its backward, or for being done again.
 */
static void
add_aux(EngPlan *plan, Pieces *pieces, int32_t index)
{
	EngOp	   *op = &plan->ops[index];
	int32_t		last = index;

	if (op->backward_active)
		last = 2 * plan->op_count - 1 - index;
	else if (op->again_before >= 0)
		last = 2 * plan->op_count - 1 - op->again_before;
	add_piece(pieces, op->aux_size, &op->aux_offset, index, last);
}

bool
eng_plan_place(EngPlan *plan, EngStatus *status)
{
	int32_t		most = 4 * plan->tensor_count + plan->op_count;
	Pieces		pieces = {calloc(most + 1, sizeof(Piece)),
	calloc(most + 1, sizeof(Piece *)), 0};
	int32_t		i;

	if (pieces.list == NULL || pieces.placed == NULL)
	{
		free(pieces.list);
		free(pieces.placed);
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	}
	for (i = 0; i < plan->tensor_count; i++)
		add_tensor(plan, &pieces, i);
	for (i = 0; i < plan->op_count; i++)
	{
		add_aux(plan, &pieces, i);
		if (plan->ops[i].workspace > plan->workspace)
			plan->workspace = plan->ops[i].workspace;
	}
	plan->live_peak = live_peak(&pieces);
	plan->activations = place_best(&pieces, plan->request.keep_all);
	for (i = 0; i < plan->tensor_count; i++)
	{
		EngTensor  *tensor = &plan->tensors[i];

		tensor->value_offset = tensor->offset;
		tensor->grad_offset = plan->tensors[tensor->grad_root].grad_offset;
	}
	free(pieces.list);
	free(pieces.placed);
	return true;
}
