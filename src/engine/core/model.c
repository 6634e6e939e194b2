/*
 * engine/core/model.c
 *		Describing a network: appending tensors and operations.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/plan.h"

static void *
room_for_one(void *list, int32_t count, int32_t *capacity, size_t size)
{
	int32_t		larger = *capacity ? *capacity * 2 : 64;
	void	   *grown;

	if (count < *capacity)
		return list;
	grown = realloc(list, larger * size);
	if (grown != NULL)
		*capacity = larger;
	return grown;
}

int32_t
eng_model_tensor(EngModel *model, const char *name)
{
	EngTensor  *tensor;
	EngTensor  *list;

	list = room_for_one(model->tensors, model->tensor_count,
						&model->tensor_capacity, sizeof(EngTensor));
	if (list == NULL)
	{
		eng_fail(&model->status, ENG_NO_MEMORY, "out of memory");
		return 0;
	}
	model->tensors = list;
	tensor = &list[model->tensor_count];
	memset(tensor, 0, sizeof(*tensor));
	snprintf(tensor->name, sizeof(tensor->name), "%s", name);
	tensor->root = model->tensor_count;
	return model->tensor_count++;
}

EngOp *
eng_model_op(EngModel *model, const EngOpClass *class, const char *name)
{
	EngOp	   *op;
	EngOp	   *list;

	list = room_for_one(model->ops, model->op_count, &model->op_capacity,
						sizeof(EngOp));
	if (list == NULL)
	{
		/* overwrite the last one: the model is thrown away anyway */
		eng_fail(&model->status, ENG_NO_MEMORY, "out of memory");
		op = &model->ops[model->op_count - 1];
	}
	else
	{
		model->ops = list;
		op = &list[model->op_count++];
	}
	memset(op, 0, sizeof(*op));
	op->class = class;
	op->name = name;
	op->weight = op->bias = op->folded = -1;
	return op;
}

void
eng_op_input(EngOp *op, int32_t tensor)
{
	op->input[op->input_count++] = tensor;
}

void
eng_op_output(EngOp *op, int32_t tensor)
{
	op->output[op->output_count++] = tensor;
}

void
eng_model_free(EngModel *model)
{
	free(model->tensors);
	free(model->ops);
	memset(model, 0, sizeof(*model));
}
