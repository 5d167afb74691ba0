/*
 * Who may manage which role: azure_pg_admin and azuresu are restricted, and
 * with Azure's "improved control" the members of azure_pg_admin manage every
 * other role that is not a superuser, whatever the version's own rules say.
 */
#include "pgaadauth.h"

#include "access/transam.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#define ADMINISTRATORS "azure_pg_admin"

static bool improved_control = false;
static ProcessUtility_hook_type next_hook = NULL;
static Oid	acting_for = InvalidOid;	/* whose statement runs as superuser */

/* The roles that one statement manages, by what it does to them. */
typedef struct Managed
{
	List	   *specs;			/* of RoleSpec */
	List	   *names;			/* of char * */
	RoleSpec   *new_owner;		/* of REASSIGN OWNED */
	bool		liftable;		/* improved control covers this kind of statement */
	bool		self;			/* may name the caller itself */
} Managed;

Oid
statement_caller(void)
{
	return OidIsValid(acting_for) ? acting_for : GetUserId();
}

static Oid
administrators(void)
{
	return get_role_oid(ADMINISTRATORS, true);
}

static bool
is_restricted(Oid role)
{
	return OidIsValid(role) &&
		(role == administrators() || role == get_role_oid("azuresu", true));
}

/* Attributes that only a superuser may give stay so. */
static bool
gives_superuser_powers(List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = (DefElem *) lfirst(cell);

		if (strcmp(option->defname, "superuser") == 0 ||
			strcmp(option->defname, "isreplication") == 0 ||
			strcmp(option->defname, "bypassrls") == 0)
			return true;
	}
	return false;
}

/* Whether any user may set this parameter for himself. */
static bool
is_user_parameter(const VariableSetStmt *set)
{
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	bool		plain = false;

	if (set->name == NULL)
		return true;
	values[0] = CStringGetTextDatum(set->name);
	SPI_connect();
	SPI_execute_with_args("SELECT FROM pg_catalog.pg_settings"
						  " WHERE name = pg_catalog.lower($1) AND context = 'user'",
						  1, types, values, NULL, true, 1);
	plain = SPI_processed == 1;
	SPI_finish();
	return plain;
}

static void
add_option_roles(List *options, Managed *managed)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = (DefElem *) lfirst(cell);

		if (strcmp(option->defname, "addroleto") == 0 ||
			strcmp(option->defname, "rolemembers") == 0 ||
			strcmp(option->defname, "adminmembers") == 0)
			managed->specs = list_concat(managed->specs, (List *) option->arg);
	}
}

static void
add_grant(GrantRoleStmt *grant, Managed *managed)
{
	ListCell   *cell;

	foreach(cell, grant->granted_roles)
		managed->names = lappend(managed->names, ((AccessPriv *) lfirst(cell))->priv_name);
	managed->specs = list_copy(grant->grantee_roles);
	managed->liftable = managed->self = true;
}

static Managed
managed_roles(Node *statement)
{
	Managed		managed = {0};

	if (IsA(statement, GrantRoleStmt))
		add_grant((GrantRoleStmt *) statement, &managed);
	else if (IsA(statement, CreateRoleStmt))
		add_option_roles(((CreateRoleStmt *) statement)->options, &managed);
	else if (IsA(statement, AlterRoleStmt))
	{
		AlterRoleStmt *alter = (AlterRoleStmt *) statement;

		managed.specs = list_make1(alter->role);
		managed.liftable = !gives_superuser_powers(alter->options);
		add_option_roles(alter->options, &managed);
	}
	else if (IsA(statement, AlterRoleSetStmt))
	{
		AlterRoleSetStmt *set = (AlterRoleSetStmt *) statement;

		if (set->role != NULL)
			managed.specs = list_make1(set->role);
		managed.liftable = set->role != NULL;
	}
	else if (IsA(statement, DropRoleStmt))
	{
		managed.specs = ((DropRoleStmt *) statement)->roles;
		managed.liftable = true;
	}
	else if (IsA(statement, RenameStmt) && ((RenameStmt *) statement)->renameType == OBJECT_ROLE)
	{
		managed.names = list_make1(((RenameStmt *) statement)->subname);
		managed.liftable = true;
	}
	else if (IsA(statement, CommentStmt) && ((CommentStmt *) statement)->objtype == OBJECT_ROLE)
	{
		managed.names = list_make1(strVal(((CommentStmt *) statement)->object));
		managed.liftable = managed.self = true;
	}
	else if (IsA(statement, SecLabelStmt) && ((SecLabelStmt *) statement)->objtype == OBJECT_ROLE)
	{
		managed.names = list_make1(strVal(((SecLabelStmt *) statement)->object));
		managed.liftable = managed.self = true;
	}
	else if (IsA(statement, ReassignOwnedStmt))
	{
		managed.specs = ((ReassignOwnedStmt *) statement)->roles;
		managed.new_owner = ((ReassignOwnedStmt *) statement)->newrole;
		managed.liftable = true;
	}
	else if (IsA(statement, DropOwnedStmt))
		managed.specs = ((DropOwnedStmt *) statement)->roles;
	return managed;
}

/* The oids of all managed roles that exist; the statement itself reports the others. */
static List *
managed_oids(const Managed *managed)
{
	List	   *oids = NIL;
	ListCell   *cell;

	foreach(cell, managed->specs)
		oids = lappend_oid(oids, get_rolespec_oid((RoleSpec *) lfirst(cell), true));
	foreach(cell, managed->names)
		oids = lappend_oid(oids, get_role_oid((char *) lfirst(cell), true));
	return oids;
}

/* Whether the caller gets this one statement executed by improved control. */
static bool
is_lifted(Node *statement, const Managed *managed, List *oids)
{
	Oid			caller = GetUserId();
	ListCell   *cell;

	if (!improved_control || !managed->liftable || oids == NIL ||
		!OidIsValid(administrators()) || !is_member_of_role(caller, administrators()))
		return false;
	foreach(cell, oids)
	{
		Oid			role = lfirst_oid(cell);

		if (!OidIsValid(role) || role < FirstNormalObjectId || superuser_arg(role) ||
			(role == caller && !managed->self))
			return false;
	}
	if (managed->new_owner != NULL)
	{
		Oid			owner = get_rolespec_oid(managed->new_owner, true);

		if (!OidIsValid(owner) || superuser_arg(owner) ||
			(is_restricted(owner) && !is_member_of_role(caller, owner)))
			return false;
	}
	return !IsA(statement, AlterRoleSetStmt) ||
		is_user_parameter(((AlterRoleSetStmt *) statement)->setstmt);
}

/* CURRENT_USER must go on meaning the caller while the superuser acts for him. */
static void
name_caller(RoleSpec *spec)
{
	if (spec == NULL || (spec->roletype != ROLESPEC_CURRENT_USER &&
						 spec->roletype != ROLESPEC_CURRENT_ROLE))
		return;
	spec->roletype = ROLESPEC_CSTRING;
	spec->rolename = GetUserNameFromId(GetUserId(), false);
}

static void
control_utility(PlannedStmt *planned, const char *query, bool read_only,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *done)
{
	ProcessUtility_hook_type next = next_hook ? next_hook : standard_ProcessUtility;
	Managed		managed = managed_roles(planned->utilityStmt);
	List	   *oids;
	ListCell   *cell;
	Oid			caller;
	int			security;

	if (superuser() || (managed.specs == NIL && managed.names == NIL))
	{
		next(planned, query, read_only, context, params, environment, dest, done);
		return;
	}
	oids = managed_oids(&managed);
	foreach(cell, oids)
	{
		if (is_restricted(lfirst_oid(cell)))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to alter restricted role \"%s\"",
							GetUserNameFromId(lfirst_oid(cell), false))));
	}
	if (!is_lifted(planned->utilityStmt, &managed, oids))
	{
		next(planned, query, read_only, context, params, environment, dest, done);
		return;
	}
	planned = copyObject(planned);
	managed = managed_roles(planned->utilityStmt);
	foreach(cell, managed.specs)
		name_caller((RoleSpec *) lfirst(cell));
	name_caller(managed.new_owner);
	GetUserIdAndSecContext(&caller, &security);
	PG_TRY();
	{
		acting_for = caller;
		SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, security | SECURITY_LOCAL_USERID_CHANGE);
		next(planned, query, read_only, context, params, environment, dest, done);
	}
	PG_FINALLY();
	{
		acting_for = InvalidOid;
		SetUserIdAndSecContext(caller, security);
	}
	PG_END_TRY();
}

void
control_init(void)
{
	DefineCustomBoolVariable("pgaadauth.lab_improved_control",
							 "Whether members of azure_pg_admin manage every role that is not restricted.",
							 NULL, &improved_control, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	next_hook = ProcessUtility_hook;
	ProcessUtility_hook = control_utility;
}
