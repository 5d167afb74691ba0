//! Attributes: only what differs is sent, and only what was asked for is set back.

use super::Rights;
use crate::model::{Asked, Attribute, Attributes, Desired, RoleFacts, RoleStep};

/// How the marker calls LOGIN that we took away.
const LOGIN: &str = "login";

/// How the marker calls what we know how to set back.
const KNOWN: [&str; 5] = [
    LOGIN,
    "connectionLimit",
    "createDb",
    "createRole",
    "inherit",
];

/// Adds what is to be done. LOGIN that a database administrator took away is not for here.
pub(super) fn plan(desired: &Desired, asked: &Asked, facts: &RoleFacts, rights: &mut Rights) {
    let mut change = Change {
        asked,
        rights,
        attributes: Vec::new(),
    };
    change.login(desired.attributes.login, facts.can_login);
    let wanted = &desired.attributes;
    let there = &facts.attributes;
    let default = Attributes::default();
    change.attribute(
        "connectionLimit",
        (wanted.connection_limit, there.connection_limit),
        Some(default.connection_limit),
        Attribute::ConnectionLimit,
    );
    // An administrator has these two from Azure: not ours to set back.
    let of_azure = |default: bool| (!desired.admin).then_some(default);
    change.attribute(
        "createDb",
        (wanted.create_db, there.create_db),
        of_azure(default.create_db),
        Attribute::CreateDb,
    );
    change.attribute(
        "createRole",
        (wanted.create_role, there.create_role),
        of_azure(default.create_role),
        Attribute::CreateRole,
    );
    change.attribute(
        "inherit",
        (wanted.inherit, there.inherit),
        Some(default.inherit),
        Attribute::Inherit,
    );
    let unknown = asked.attributes.iter();
    let unknown = unknown.filter(|name| !KNOWN.contains(&name.as_str()));
    change.rights.asked.attributes.extend(unknown.cloned());
    let Change { attributes, .. } = change;
    if !attributes.is_empty() {
        rights.steps.push(RoleStep::Alter(attributes));
    }
}

struct Change<'a> {
    asked: &'a Asked,
    rights: &'a mut Rights,
    attributes: Vec<Attribute>,
}

impl Change<'_> {
    /// Closes the role as declared; opens it only if we had closed it.
    fn login(&mut self, wanted: bool, there: bool) {
        let ours = self.asked.attributes.contains(LOGIN);
        if wanted != there && (ours || there) {
            self.attributes.push(Attribute::Login(wanted));
            self.remember(LOGIN);
        } else if ours && !wanted {
            self.remember(LOGIN);
        }
    }

    /// Sets an attribute as declared, or back to its default if we had set it.
    fn attribute<T: Copy + PartialEq>(
        &mut self,
        name: &str,
        (wanted, there): (Option<T>, T),
        default: Option<T>,
        attribute: fn(T) -> Attribute,
    ) {
        let ours = self.asked.attributes.contains(name);
        let target = wanted.or(default.filter(|_| ours));
        if let Some(target) = target.filter(|target| *target != there) {
            self.attributes.push(attribute(target));
            self.remember(name);
        } else if ours && wanted.is_some() {
            self.remember(name);
        }
    }

    fn remember(&mut self, name: &str) {
        self.rights.asked.attributes.insert(name.to_owned());
    }
}
