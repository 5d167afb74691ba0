//! Names as types: parsed at the edge, trusted afterwards.

use std::fmt;

use super::{Class, Failure, Reason};

/// Namespace and name of an object; prints as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectKey {
    /// Names an object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Name of a `PostgreSQL` role: 1 to 63 bytes, no NUL. Case-sensitive, any other character allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleName(String);

/// Names that neither `PostgreSQL` nor Azure let anybody have.
const RESERVED: [&str; 8] = [
    "azure_pg_admin",
    "azuresu",
    "azure_superuser",
    "azure_ad_user",
    "azure_ad_admin",
    "azure_ad_mfa",
    "public",
    "none",
];

impl RoleName {
    /// Takes a name as the server has it.
    ///
    /// # Errors
    /// `InvalidSpec` when it is empty, over 63 bytes (`PostgreSQL` would cut it) or has a NUL.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let problem = if text.is_empty() {
            "is empty"
        } else if text.len() > 63 {
            "is over 63 bytes, and PostgreSQL would cut it"
        } else if text.contains('\0') {
            "contains a NUL character"
        } else {
            return Ok(Self(text.to_owned()));
        };
        let message = format!("role name {text:?} {problem}: choose another roleName");
        Err(Failure::new(Class::Invalid, Reason::InvalidSpec, message))
    }

    /// Takes a name that somebody wants to have.
    ///
    /// # Errors
    /// As [`RoleName::parse`], and when the name is reserved by `PostgreSQL` or Azure.
    pub fn parse_wanted(text: &str) -> Result<Self, Failure> {
        let name = Self::parse(text)?;
        if text.starts_with("pg_") || RESERVED.contains(&text) {
            let message = format!(
                "role name {text:?} is reserved by PostgreSQL or Azure: choose another roleName"
            );
            return Err(Failure::new(Class::Invalid, Reason::InvalidSpec, message));
        }
        Ok(name)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Object id of an Entra principal: a GUID in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(String);

impl ObjectId {
    /// Takes a GUID in its hyphenated form, in either case.
    pub fn parse(text: &str) -> Option<Self> {
        let hyphenated = text.len() == 36;
        let id = uuid::Uuid::try_parse(text).ok()?;
        hyphenated.then(|| Self(id.as_hyphenated().to_string()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_name_is_counted_in_bytes() {
        assert!(RoleName::parse(&"ü".repeat(31)).is_ok());
        assert!(RoleName::parse(&"ü".repeat(32)).is_err());
        assert!(RoleName::parse("").is_err());
        assert!(RoleName::parse("a\0b").is_err());
        assert!(RoleName::parse_wanted("pg_monitor").is_err());
        assert!(RoleName::parse_wanted("azure_pg_admin").is_err());
        assert!(RoleName::parse_wanted("o'brien \"x\" \\ ü%").is_ok());
    }

    #[test]
    fn object_ids_compare_without_case() {
        let upper = ObjectId::parse("AAAAAAAA-0000-0000-0000-00000000000F");
        assert_eq!(
            upper,
            ObjectId::parse("aaaaaaaa-0000-0000-0000-00000000000f")
        );
        assert_eq!(ObjectId::parse("aaaaaaaa00000000000000000000000f"), None);
        assert_eq!(ObjectId::parse("nonsense"), None);
    }
}
