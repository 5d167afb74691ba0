/*
 * The lab's pgaadauth: the label providers `pgaadauth` (what users write) and
 * `pgaadauth-int` (what the directory said), with Azure's rules on who may set
 * a label and for whom. It authenticates nobody: the lab's gateway does.
 */
#include "pgaadauth.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_shseclabel.h"
#include "commands/seclabel.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"

PG_MODULE_MAGIC;

#define PROVIDER "pgaadauth"
#define RESOLVED "pgaadauth-int"
#define LOCK_SUBID 0x5a5a		/* keeps our locks apart from those on real roles */

/* `aadauth[,oid=..][,type=..][,admin][,mfa]` */
typedef struct Label
{
	bool		admin;
	bool		mfa;
	char	   *oid;
	char	   *type;
} Label;

static bool relabel_refused = false;
static bool enable_group_sync = false;

void		_PG_init(void);

static bool
is_guid(const char *text)
{
	if (strlen(text) != GUID_LENGTH)
		return false;
	for (int i = 0; i < GUID_LENGTH; i++)
	{
		bool		dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? text[i] != '-' : !isxdigit((unsigned char) text[i]))
			return false;
	}
	return true;
}

/* One part after `aadauth`; false if it is unknown, repeated or malformed. */
static bool
parse_part(char *part, Label *label)
{
	if (strcmp(part, "admin") == 0 && !label->admin)
		return label->admin = true;
	if (strcmp(part, "mfa") == 0 && !label->mfa)
		return label->mfa = true;
	if (strncmp(part, "oid=", 4) == 0 && label->oid == NULL)
		return is_guid(label->oid = part + 4);
	if (strncmp(part, "type=", 5) == 0 && label->type == NULL)
	{
		label->type = part + 5;
		return strcmp(label->type, "user") == 0 || strcmp(label->type, "group") == 0 ||
			strcmp(label->type, "service") == 0;
	}
	return false;
}

static bool
parse_label(const char *text, Label *label)
{
	char	   *part = pstrdup(text);

	memset(label, 0, sizeof(*label));
	for (bool first = true; part != NULL; first = false)
	{
		char	   *comma = strchr(part, ',');

		if (comma != NULL)
			*comma++ = '\0';
		if (first ? strcmp(part, "aadauth") != 0 : !parse_part(part, label))
			return false;
		part = comma;
	}
	return true;
}

static char *
label_of(Oid role, const char *provider)
{
	ObjectAddress object;

	ObjectAddressSet(object, AuthIdRelationId, role);
	return GetSecurityLabel(&object, provider);
}

bool
is_entra_administrator(Oid role)
{
	char	   *text = label_of(role, PROVIDER);
	Label		label;

	return text != NULL && parse_label(text, &label) && label.admin;
}

static void
refuse_update(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("Failed to create Microsoft Entra principal. Reason: 'Updating an existing "
					"principal isn't supported. Drop and recreate the Microsoft Entra principal.'")));
}

/* Asks the directory as Azure does, and refuses what it refuses. */
static void
resolve(const char *role, const Label *label, Principal *found)
{
	int			count;

	directory_faults(role);
	if (label->oid != NULL)
	{
		if (directory_by_oid(label->oid, found) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("Could not validate AAD user %s because its object id is not found in "
							"the tenant. Make sure it's correct and retry.", label->oid)));
	}
	else
	{
		/* The type only tells namesakes apart; a wrong one is told below. */
		count = label->type == NULL ? 0 : directory_by_name(role, label->type, found);
		if (count == 0)
			count = directory_by_name(role, NULL, found);
		if (count == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("Could not validate AAD user %s because its name is not found in the "
							"tenant. Make sure it's correct and retry.", role)));
		if (count > 1)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("Cannot validate Microsoft Entra ID user \"%s\" because its name isn't "
							"unique in the tenant. Make sure it's correct and retry.", role)));
	}
	if (label->type != NULL && strcmp(label->type, found->type) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("incorrect object type provided for principal, given object type: '%s', "
						"actual object type: '%s'", label->type, found->type)));
}

/* The value of `key=` in a list of `key=value` parts. */
static char *
value_of(const char *text, const char *key)
{
	size_t		length = strlen(key);

	for (const char *part = text; part != NULL; part = strchr(part, ','))
	{
		if (*part == ',')
			part++;
		if (strncmp(part, key, length) == 0 && part[length] == '=')
			return pnstrdup(part + length + 1, strcspn(part + length + 1, ","));
	}
	return NULL;
}

/* Whether a role other than `except` is already this principal. */
static bool
is_mapped_elsewhere(const char *oid, Oid except)
{
	Relation	labels = table_open(SharedSecLabelRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	row;
	bool		mapped = false;

	ScanKeyInit(&key, Anum_pg_shseclabel_provider, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(RESOLVED));
	scan = systable_beginscan(labels, InvalidOid, false, NULL, 1, &key);
	while (!mapped && HeapTupleIsValid(row = systable_getnext(scan)))
	{
		Form_pg_shseclabel entry = (Form_pg_shseclabel) GETSTRUCT(row);
		bool		isnull;
		Datum		value = heap_getattr(row, Anum_pg_shseclabel_label,
										RelationGetDescr(labels), &isnull);
		char	   *other;

		if (isnull || entry->classoid != AuthIdRelationId || entry->objoid == except)
			continue;
		other = value_of(TextDatumGetCString(value), "oid");
		mapped = other != NULL && pg_strcasecmp(other, oid) == 0;
	}
	systable_endscan(scan);
	table_close(labels, AccessShareLock);
	return mapped;
}

/* Two transactions must not both find a principal unused. Held until the end. */
static void
lock_principal(const char *oid)
{
	uint32		hash = DatumGetUInt32(hash_any((const unsigned char *) oid, strlen(oid)));

	LockSharedObject(AuthIdRelationId, (Oid) hash, LOCK_SUBID, ExclusiveLock);
}

static void
refuse_callers(Oid caller)
{
	if (!superuser_arg(caller) && !is_entra_administrator(caller))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to create or change a Microsoft Entra role"),
				 errdetail("Only Microsoft Entra administrators can create or enable Microsoft "
						   "Entra roles; role \"%s\" isn't one.",
						   GetUserNameFromId(caller, false))));
}

/* Called by SECURITY LABEL before the label of provider `pgaadauth` is stored. */
static void
check_label(const ObjectAddress *object, const char *text)
{
	Oid			caller = statement_caller();
	bool		unbound = superuser_arg(caller);
	Label		label;
	Principal	found;

	if (object->classId != AuthIdRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("security label provider \"%s\" only labels roles", PROVIDER)));
	refuse_callers(caller);
	if (text == NULL)
	{
		SetSecurityLabel(object, RESOLVED, NULL);
		return;
	}
	if (!parse_label(text, &label))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid security label \"%s\"", text),
				 errhint("Write aadauth[,oid=<object id>][,type=user|group|service][,admin][,mfa].")));
	if (relabel_refused && !unbound && label_of(object->objectId, PROVIDER) != NULL)
		refuse_update();
	resolve(GetUserNameFromId(object->objectId, false), &label, &found);
	lock_principal(found.oid);
	if ((found.administrator && !unbound) || is_mapped_elsewhere(found.oid, object->objectId))
		refuse_update();
	SetSecurityLabel(object, RESOLVED,
					 psprintf("type=%s,oid=%s,tenant_id=%s", found.type, found.oid,
							  directory_tenant()));
}

static void
check_resolved_label(const ObjectAddress *object, const char *text)
{
	if (!superuser_arg(statement_caller()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("security label provider \"%s\" is reserved for the service", RESOLVED)));
}

/*
 * The one step of pgaadauth_create_principal that its caller could not do: an
 * administrator's role joins azure_pg_admin. The label was checked before.
 */
PG_FUNCTION_INFO_V1(pgaadauth_join_administrators);
Datum
pgaadauth_join_administrators(PG_FUNCTION_ARGS)
{
	char	   *role = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid			caller;
	int			context;

	refuse_callers(GetUserId());
	if (!is_entra_administrator(get_role_oid(role, false)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" is not labelled as a Microsoft Entra administrator", role)));
	GetUserIdAndSecContext(&caller, &context);
	/* An error ends the (sub)transaction, which restores the user. */
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	SPI_execute(psprintf("GRANT azure_pg_admin TO %s", quote_identifier(role)), false, 0);
	SPI_finish();
	SetUserIdAndSecContext(caller, context);
	PG_RETURN_VOID();
}

void
_PG_init(void)
{
	DefineCustomBoolVariable("pgaadauth.enable_group_sync",
							 "Azure's switch; the lab makes no member roles.",
							 NULL, &enable_group_sync, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("pgaadauth.lab_relabel_refused",
							 "Whether a role that has a label may be given another.",
							 NULL, &relabel_refused, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	register_label_provider(PROVIDER, check_label);
	register_label_provider(RESOLVED, check_resolved_label);
	control_init();
}
