//! The Secret with a token: which keys it has, what is recorded on it, and how good it is. Errors
//! never contain the token.

mod content;
mod escape;
mod format;
mod layout;
mod record;
mod shape;
mod template;
#[cfg(test)]
mod tests;
mod token;

pub use content::{AfterConflict, Content, Present, SecretFacts, Written, was_made_before};
pub use layout::{Connection, Layout, pem};
pub use record::{
    EXPIRES_AT, IDENTITY_SHA256, ISSUED_AT, TOKEN_OBJECT_ID, TOKEN_SHA256, TokenRecord, identity_of,
};
pub use template::{Template, is_reserved};
pub use token::{fingerprint, life_of, token_in};
