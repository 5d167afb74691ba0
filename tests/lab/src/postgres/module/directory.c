/*
 * The live directory as PostgreSQL sees it: a text file in the data directory
 * which the lab replaces by rename. It is read anew at each call, so that a
 * change is visible at once. Nothing is written here but the count of faults
 * that were used up.
 */
#include "pgaadauth.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/string.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define DIRECTORY_FILE "pgaadauth.directory"
#define FAULTS_FILE "pgaadauth.faults"
#define USED_FILE "pgaadauth.used."
#define MAX_FIELDS 6

/* Splits a line at its tabs, in place. Missing fields are empty. */
static void
split_fields(StringInfo line, char *fields[MAX_FIELDS])
{
	char	   *rest = line->data;

	if (line->len > 0 && line->data[line->len - 1] == '\n')
		line->data[--line->len] = '\0';
	for (int i = 0; i < MAX_FIELDS; i++)
	{
		char	   *tab = strchr(rest, '\t');

		fields[i] = rest;
		if (tab == NULL || i == MAX_FIELDS - 1)
			rest += strlen(rest);
		else
		{
			*tab = '\0';
			rest = tab + 1;
		}
	}
}

/* Undoes the lab's escapes (backslash t, n, r and backslash itself), in place. */
static char *
unescape(char *text)
{
	char	   *to = text;

	for (const char *from = text; *from; from++)
	{
		if (*from == '\\' && from[1] != '\0')
		{
			from++;
			*to++ = *from == 't' ? '\t' : *from == 'n' ? '\n' : *from == 'r' ? '\r' : *from;
		}
		else
			*to++ = *from;
	}
	*to = '\0';
	return text;
}

static bool
is_principal_type(const char *word)
{
	return strcmp(word, "user") == 0 || strcmp(word, "group") == 0 ||
		strcmp(word, "service") == 0;
}

static FILE *
open_directory(void)
{
	FILE	   *file = AllocateFile(DIRECTORY_FILE, "r");

	if (file == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_GRANT_OPERATION),
				 errmsg("An unexpected error occurred while trying to validate user."),
				 errdetail("The lab has not written the directory \"%s\".", DIRECTORY_FILE)));
	return file;
}

/*
 * Counts the principals that have this name (and type, if given) or, with a
 * null name, this object id. The first of them is returned in `found`.
 */
static int
look_up(const char *name, const char *type, const char *oid, Principal *found)
{
	FILE	   *file = open_directory();
	StringInfoData line;
	int			count = 0;
	bool		administrator = false;

	initStringInfo(&line);
	while (pg_get_line_buf(file, &line))
	{
		char	   *fields[MAX_FIELDS];

		split_fields(&line, fields);
		if (!is_principal_type(fields[0]))
			continue;
		if (name != NULL ? strcmp(unescape(fields[2]), name) != 0
			: pg_strcasecmp(fields[1], oid) != 0)
			continue;
		if (type != NULL && strcmp(fields[0], type) != 0)
			continue;
		if (count++ == 0)
		{
			strlcpy(found->type, fields[0], sizeof(found->type));
			strlcpy(found->oid, fields[1], sizeof(found->oid));
		}
	}
	rewind(file);
	while (count > 0 && pg_get_line_buf(file, &line))
	{
		char	   *fields[MAX_FIELDS];

		split_fields(&line, fields);
		if (strcmp(fields[0], "administrator") == 0 && strcmp(fields[1], found->oid) == 0)
			administrator = true;
	}
	found->administrator = administrator;
	FreeFile(file);
	pfree(line.data);
	return count;
}

int
directory_by_name(const char *name, const char *type, Principal *found)
{
	return look_up(name, type, NULL, found);
}

int
directory_by_oid(const char *oid, Principal *found)
{
	return look_up(NULL, NULL, oid, found);
}

char *
directory_tenant(void)
{
	FILE	   *file = open_directory();
	StringInfoData line;
	char	   *tenant = NULL;

	initStringInfo(&line);
	while (tenant == NULL && pg_get_line_buf(file, &line))
	{
		char	   *fields[MAX_FIELDS];

		split_fields(&line, fields);
		if (strcmp(fields[0], "tenant") == 0)
			tenant = pstrdup(fields[1]);
	}
	FreeFile(file);
	return tenant != NULL ? tenant : "";
}

/*
 * Takes one use of a fault that happens only so many times. The position after
 * an appended byte is the ordinal of this use, over all backends.
 */
static bool
take_use(const char *id, int times)
{
	char		path[MAXPGPATH];
	int			file;
	off_t		ordinal = -1;

	if (times == 0)
		return true;
	snprintf(path, sizeof(path), "%s%s", USED_FILE, id);
	file = OpenTransientFile(path, O_WRONLY | O_CREAT | O_APPEND);
	if (file < 0)
		return false;
	if (write(file, "x", 1) == 1)
		ordinal = lseek(file, 0, SEEK_CUR);
	CloseTransientFile(file);
	return ordinal >= 1 && ordinal <= times;
}

static void
sleep_interruptibly(long milliseconds)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);
	long		left;

	while ((left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end)) > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* What the lab was told to let go wrong while Azure asks its directory. */
void
directory_faults(const char *role)
{
	FILE	   *file = AllocateFile(FAULTS_FILE, "r");
	StringInfoData line;
	long		delay = 0;
	char	   *sqlstate = NULL;
	char	   *message = NULL;

	if (file == NULL)
		return;
	initStringInfo(&line);
	while (pg_get_line_buf(file, &line))
	{
		char	   *fields[MAX_FIELDS];	/* id, times, delay, SQLSTATE, message, role */
		char	   *match;
		bool		fails;

		split_fields(&line, fields);
		match = unescape(fields[5]);
		fails = strlen(fields[3]) == 5;
		if (*match != '\0' && strcmp(match, role) != 0)
			continue;
		/* Of several failures the first in the list happens, and the others wait. */
		if ((fails && sqlstate != NULL) || !take_use(fields[0], atoi(fields[1])))
			continue;
		delay += atol(fields[2]);
		if (fails)
		{
			sqlstate = pstrdup(fields[3]);
			message = pstrdup(unescape(fields[4]));
		}
	}
	FreeFile(file);
	pfree(line.data);
	sleep_interruptibly(delay);
	if (sqlstate != NULL)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3],
									   sqlstate[4])),
				 errmsg("%s", message)));
}
