/*
 * What the parts of the lab's pgaadauth module ask of each other.
 */
#ifndef PGAADAUTH_H
#define PGAADAUTH_H

#include "postgres.h"

#define GUID_LENGTH 36

/* One principal of the live directory. */
typedef struct Principal
{
	char		type[8];		/* user, group or service */
	char		oid[GUID_LENGTH + 1];
	bool		administrator;	/* registered as administrator of the server */
} Principal;

/* directory.c */
extern int	directory_by_name(const char *name, const char *type, Principal *found);
extern int	directory_by_oid(const char *oid, Principal *found);
extern char *directory_tenant(void);
extern void directory_faults(const char *role);

/* pgaadauth.c */
extern bool is_entra_administrator(Oid role);

/* control.c */
extern void control_init(void);
extern Oid	statement_caller(void);

#endif
