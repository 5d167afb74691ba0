-- The SQL surface of pgaadauth, in database postgres only, with Azure's names, columns and texts.
-- NAME_COLUMN is replaced by rolname or rolename: servers have been seen with either.

CREATE FUNCTION pg_catalog.pgaadauth_join_administrators(text) RETURNS void
    LANGUAGE c STRICT AS 'pgaadauth', 'pgaadauth_join_administrators';

COMMENT ON FUNCTION pg_catalog.pgaadauth_join_administrators(text) IS
    'Part of the lab: lets pgaadauth_create_principal put an administrator into azure_pg_admin';

CREATE FUNCTION pg_catalog.pgaadauth_list_principals(isAdminValue boolean)
    RETURNS TABLE (NAME_COLUMN name, principalType text, objectId text, tenantId text,
                   isMfa integer, isAdmin integer)
    LANGUAGE sql STABLE AS $$
    SELECT role.rolname,
           substring(resolved.label FROM 'type=([^,]*)'),
           substring(resolved.label FROM 'oid=([^,]*)'),
           substring(resolved.label FROM 'tenant_id=([^,]*)'),
           ('mfa' = ANY (string_to_array(given.label, ',')))::integer,
           ('admin' = ANY (string_to_array(given.label, ',')))::integer
    FROM pg_catalog.pg_shseclabel AS given
    JOIN pg_catalog.pg_roles AS role ON role.oid = given.objoid
    LEFT JOIN pg_catalog.pg_shseclabel AS resolved
        ON resolved.objoid = given.objoid AND resolved.classoid = given.classoid
        AND resolved.provider = 'pgaadauth-int'
    WHERE given.provider = 'pgaadauth'
        AND given.classoid = 'pg_catalog.pg_authid'::regclass
        AND (NOT isAdminValue OR 'admin' = ANY (string_to_array(given.label, ',')))
    ORDER BY role.rolname
$$;

CREATE FUNCTION pg_catalog.pgaadauth_create_principal(
    roleName text, isAdmin boolean, isMfa boolean) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    securityLabel text := 'aadauth';
BEGIN
    IF isAdmin THEN
        EXECUTE format('CREATE ROLE %I LOGIN CREATEROLE CREATEDB', roleName);
        securityLabel := securityLabel || ',admin';
    ELSE
        EXECUTE format('CREATE ROLE %I LOGIN', roleName);
    END IF;
    IF isMfa THEN
        securityLabel := securityLabel || ',mfa';
    END IF;
    EXECUTE format('SECURITY LABEL for "pgaadauth" on role %I is %L', roleName, securityLabel);
    IF isAdmin THEN
        PERFORM pg_catalog.pgaadauth_join_administrators(roleName);
    END IF;
    RETURN format('Created role for %1$s', quote_ident(roleName));
END
$$;

CREATE FUNCTION pg_catalog.pgaadauth_create_principal_with_oid(
    roleName text, objectId text, objectType text, isAdmin boolean, isMfa boolean) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    securityLabel text := format('aadauth,oid=%s,type=%s', objectId, objectType);
BEGIN
    IF isAdmin THEN
        EXECUTE format('CREATE ROLE %I LOGIN CREATEROLE CREATEDB', roleName);
        securityLabel := securityLabel || ',admin';
    ELSE
        EXECUTE format('CREATE ROLE %I LOGIN', roleName);
    END IF;
    IF isMfa THEN
        securityLabel := securityLabel || ',mfa';
    END IF;
    EXECUTE format('SECURITY LABEL for "pgaadauth" on role %I is %L', roleName, securityLabel);
    IF isAdmin THEN
        PERFORM pg_catalog.pgaadauth_join_administrators(roleName);
    END IF;
    RETURN format('Created role for %1$s', quote_ident(roleName));
END
$$;
