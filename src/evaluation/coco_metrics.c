/*
 * evaluation/coco_metrics.c
 *		coco_metrics(): two COCO documents in, the protocol's figures out.
 *
 * Images and categories are those that the truth lists; what belongs to
 * others is left out, with a warning, because ids that do not fit give an
 * average precision of 0 that looks like a bad detector.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "evaluation/evaluator.h"

typedef struct CocoCategory
{
	int64		id;
	char	   *name;			/* NULL = nameless */
} CocoCategory;

/* A box of either document, before it is put under its image. */
typedef struct CocoBox
{
	int64		image;			/* id, later its place among the images */
	int64		number;			/* place in the document */
	int32		category;
	bool		crowd;
	double		box[4];
	double		value;			/* area of a truth, score of a detection */
} CocoBox;

typedef struct CocoBoxes
{
	CocoBox    *items;
	int64		count;
	int64		space;
	int64		strangers;		/* of unknown images or categories */
} CocoBoxes;

typedef struct CocoDocuments
{
	int64	   *images;			/* ids, ascending */
	int64		image_count;
	CocoCategory *categories;	/* by id, ascending */
	int			category_count;
	CocoBoxes	truths;
	CocoBoxes	detections;
} CocoDocuments;

PG_FUNCTION_INFO_V1(avc_coco_metrics);

static void
raise_bad_document(const char *where, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("COCO document: %s in \"%s\"", what, where)));
}

static JsonbValue *
find_field(JsonbContainer *object, const char *name, JsonbValue *value)
{
	return getKeyJsonValueFromContainer(object, name, strlen(name), value);
}

static double
number_value(const JsonbValue *value)
{
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
											  NumericGetDatum(value->val.numeric)));
}

/* A number of an object; false if it is missing or null. */
static bool
read_number(JsonbContainer *object, const char *list, const char *name,
			double *result)
{
	JsonbValue	value;

	if (find_field(object, name, &value) == NULL || value.type == jbvNull)
		return false;
	if (value.type == jbvBool)
		*result = value.val.boolean ? 1 : 0;
	else if (value.type == jbvNumeric)
		*result = number_value(&value);
	else
		raise_bad_document(list, psprintf("\"%s\" is no number", name));
	return true;
}

static int64
read_id(JsonbContainer *object, const char *list, const char *name)
{
	double		value = 0;

	if (!read_number(object, list, name, &value))
		raise_bad_document(list, psprintf("an entry without \"%s\"", name));
	if (!(value >= -9007199254740992.0 && value <= 9007199254740992.0) ||
		value != (double) (int64) value)
		raise_bad_document(list, psprintf("\"%s\" is no whole number", name));
	return (int64) value;
}

static void
read_box(JsonbContainer *object, const char *list, double box[4])
{
	JsonbValue	value;
	int			i;

	if (find_field(object, "bbox", &value) == NULL ||
		value.type != jbvBinary ||
		!JsonContainerIsArray(value.val.binary.data) ||
		JsonContainerSize(value.val.binary.data) != 4)
		raise_bad_document(list, "a \"bbox\" that is not four numbers");
	for (i = 0; i < 4; i++)
	{
		JsonbValue *element;

		element = getIthJsonbValueFromContainer(value.val.binary.data, i);
		if (element->type != jbvNumeric)
			raise_bad_document(list, "a \"bbox\" that is not four numbers");
		box[i] = number_value(element);
		pfree(element);
	}
}

/* Call "visit" for every object of an array. */
static void
visit_objects(JsonbContainer *array, const char *list, void *context,
			  void (*visit) (JsonbContainer *object, void *context))
{
	JsonbIterator *iterator = JsonbIteratorInit(array);
	JsonbIteratorToken token;
	JsonbValue	value;

	token = JsonbIteratorNext(&iterator, &value, true);
	if (token != WJB_BEGIN_ARRAY || value.val.array.rawScalar)
		raise_bad_document(list, "something else than an array");
	while ((token = JsonbIteratorNext(&iterator, &value, true)) == WJB_ELEM)
	{
		CHECK_FOR_INTERRUPTS();
		if (value.type != jbvBinary ||
			!JsonContainerIsObject(value.val.binary.data))
			raise_bad_document(list, "an element that is no object");
		visit(value.val.binary.data, context);
	}
}

static int
compare_ids(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return (x > y) - (x < y);
}

/* Place of an id in a sorted array of structs that begin with it, or -1. */
static int64
find_id(const void *base, int64 count, size_t size, int64 id)
{
	const char *found = bsearch(&id, base, count, size, compare_ids);

	return found ? (found - (const char *) base) / (int64) size : -1;
}

static void
visit_image(JsonbContainer *object, void *context)
{
	CocoDocuments *documents = context;

	documents->images[documents->image_count++] =
		read_id(object, "images", "id");
}

static void
visit_category(JsonbContainer *object, void *context)
{
	CocoDocuments *documents = context;
	CocoCategory *category =
	&documents->categories[documents->category_count++];
	JsonbValue	name;

	category->id = read_id(object, "categories", "id");
	category->name = NULL;
	if (find_field(object, "name", &name) != NULL && name.type == jbvString)
		category->name = pnstrdup(name.val.string.val, name.val.string.len);
}

static CocoBox *
add_box(CocoDocuments *documents, CocoBoxes *boxes, JsonbContainer *object,
		const char *list)
{
	CocoBox    *box;
	int64		image = read_id(object, list, "image_id");
	int64		category = read_id(object, list, "category_id");

	image = find_id(documents->images, documents->image_count,
					sizeof(int64), image);
	category = find_id(documents->categories, documents->category_count,
					   sizeof(CocoCategory), category);
	if (image < 0 || category < 0)
	{
		boxes->strangers++;
		return NULL;
	}
	if (boxes->count == boxes->space)
	{
		boxes->space = Max(2 * boxes->space, 1024);
		if (boxes->items == NULL)
			boxes->items = palloc(sizeof(CocoBox) * boxes->space);
		else
			boxes->items = repalloc_huge(boxes->items,
										 sizeof(CocoBox) * boxes->space);
	}
	box = &boxes->items[boxes->count];
	box->image = image;
	box->number = boxes->count++;
	box->category = (int32) category;
	box->crowd = false;
	read_box(object, list, box->box);
	return box;
}

static void
visit_annotation(JsonbContainer *object, void *context)
{
	CocoDocuments *documents = context;
	CocoBox    *box = add_box(documents, &documents->truths, object,
							  "annotations");
	double		crowd = 0;

	if (box == NULL)
		return;
	if (!read_number(object, "annotations", "area", &box->value))
		box->value = box->box[2] * box->box[3];
	read_number(object, "annotations", "iscrowd", &crowd);
	box->crowd = crowd != 0;
}

static void
visit_result(JsonbContainer *object, void *context)
{
	CocoDocuments *documents = context;
	CocoBox    *box = add_box(documents, &documents->detections, object,
							  "results");

	if (box != NULL && !read_number(object, "results", "score", &box->value))
		raise_bad_document("results", "an entry without \"score\"");
}

static JsonbContainer *
find_list(Jsonb *truth, const char *name)
{
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(truth) ||
		find_field(&truth->root, name, &value) == NULL ||
		value.type != jbvBinary ||
		!JsonContainerIsArray(value.val.binary.data))
		raise_bad_document(name, "no array");
	return value.val.binary.data;
}

/* Sort ids that begin structs, and drop repeated ones. */
static int64
sort_ids(void *base, int64 count, size_t size)
{
	char	   *items = base;
	int64		kept = 0;
	int64		i;

	qsort(base, count, size, compare_ids);
	for (i = 0; i < count; i++)
		if (kept == 0 || compare_ids(items + i * size,
									 items + (kept - 1) * size) != 0)
			memmove(items + kept++ * size, items + i * size, size);
	return kept;
}

static void
read_documents(CocoDocuments *documents, Jsonb *truth, Jsonb *results)
{
	JsonbContainer *images = find_list(truth, "images");
	JsonbContainer *categories = find_list(truth, "categories");

	memset(documents, 0, sizeof(*documents));
	documents->images = palloc(sizeof(int64) *
							   (JsonContainerSize(images) + 1));
	visit_objects(images, "images", documents, visit_image);
	documents->image_count = sort_ids(documents->images,
									  documents->image_count, sizeof(int64));
	documents->categories = palloc(sizeof(CocoCategory) *
								   (JsonContainerSize(categories) + 1));
	visit_objects(categories, "categories", documents, visit_category);
	documents->category_count = (int) sort_ids(documents->categories,
											   documents->category_count,
											   sizeof(CocoCategory));
	visit_objects(find_list(truth, "annotations"), "annotations", documents,
				  visit_annotation);
	visit_objects(&results->root, "results", documents, visit_result);
	if (documents->truths.strangers + documents->detections.strangers > 0)
		ereport(WARNING,
				(errmsg("left out %lld annotations and %lld results of images or categories that the truth does not list",
						(long long) documents->truths.strangers,
						(long long) documents->detections.strangers)));
}

static int
compare_boxes(const void *a, const void *b)
{
	const CocoBox *x = a;
	const CocoBox *y = b;

	if (x->image != y->image)
		return x->image < y->image ? -1 : 1;
	return (x->number > y->number) - (x->number < y->number);
}

/* Boxes of one image, from place *next on; returns their number. */
static int
take_image(const CocoBoxes *boxes, int64 *next, int64 image)
{
	int64		first = *next;

	while (*next < boxes->count && boxes->items[*next].image == image)
		(*next)++;
	return (int) (*next - first);
}

static AvcCocoClass *
evaluate_documents(CocoDocuments *documents)
{
	AvcEvaluator *evaluator =
	avc_evaluator_create(CurrentMemoryContext, documents->category_count);
	int64		t = 0;
	int64		d = 0;
	int64		image;

	qsort(documents->truths.items, documents->truths.count, sizeof(CocoBox),
		  compare_boxes);
	qsort(documents->detections.items, documents->detections.count,
		  sizeof(CocoBox), compare_boxes);
	for (image = 0; image < documents->image_count; image++)
	{
		const CocoBox *truth = documents->truths.items + t;
		const CocoBox *detection = documents->detections.items + d;
		int			tn = take_image(&documents->truths, &t, image);
		int			dn = take_image(&documents->detections, &d, image);
		AvcImageTruth *truths = palloc0(sizeof(AvcImageTruth) * (tn + 1));
		AvcImageDetection *detections;
		int			i;

		detections = palloc0(sizeof(AvcImageDetection) * (dn + 1));
		for (i = 0; i < tn; i++)
		{
			truths[i].category = truth[i].category;
			truths[i].truth_no = i;
			memcpy(truths[i].truth.box, truth[i].box, sizeof(truth[i].box));
			truths[i].truth.area = truth[i].value;
			truths[i].truth.crowd = truth[i].crowd;
		}
		for (i = 0; i < dn; i++)
		{
			detections[i].category = detection[i].category;
			memcpy(detections[i].detection.box, detection[i].box,
				   sizeof(detection[i].box));
			detections[i].detection.score = detection[i].value;
		}
		avc_evaluator_add(evaluator, truths, tn, detections, dn);
		pfree(truths);
		pfree(detections);
	}
	return avc_evaluator_finish(evaluator);
}

/* The figures of some classes as rows under one category. */
static void
put_metrics(ReturnSetInfo *result, const AvcCocoClass *classes, int count,
			const char *category)
{
	int			metric;

	for (metric = 0; metric < AVC_METRIC_RECALL50; metric++)
	{
		Datum		values[3];
		bool		nulls[3] = {false, category == NULL, false};
		double		value;

		values[0] = CStringGetTextDatum(avc_coco_metric_names[metric]);
		values[1] = category ? CStringGetTextDatum(category) : (Datum) 0;
		nulls[2] = !avc_coco_summary(classes, count, metric, &value);
		values[2] = nulls[2] ? (Datum) 0 : Float8GetDatum(value);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
	}
}

Datum
avc_coco_metrics(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CocoDocuments documents;
	AvcCocoClass *classes;
	instr_time	start;
	instr_time	took;
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	read_documents(&documents, PG_GETARG_JSONB_P(0), PG_GETARG_JSONB_P(1));
	INSTR_TIME_SET_CURRENT(start);
	classes = evaluate_documents(&documents);
	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, start);
	ereport(DEBUG1,
			(errmsg_internal("matched %lld truths with %lld detections and averaged in %.3f s",
							 (long long) documents.truths.count,
							 (long long) documents.detections.count,
							 INSTR_TIME_GET_DOUBLE(took))));
	put_metrics(result, classes, documents.category_count, NULL);
	for (i = 0; i < documents.category_count; i++)
	{
		const CocoCategory *category = &documents.categories[i];

		put_metrics(result, &classes[i], 1, category->name ? category->name :
					psprintf("%lld", (long long) category->id));
	}
	return (Datum) 0;
}
