//! When a token is tried by a sign-in.

use super::plan::TokenStep;
use crate::api::VerifyLogin;

/// Whether a token is tried before it is published. `verified`: one of this Secret has signed in.
pub fn before_publishing(verify: VerifyLogin, step: TokenStep, verified: bool) -> bool {
    let first = match step {
        TokenStep::Issue | TokenStep::Renew { expires: None } => true,
        TokenStep::Renew { expires: Some(_) } => !verified,
        TokenStep::Repair | TokenStep::Verify => false,
    };
    match verify {
        VerifyLogin::Never => false,
        VerifyLogin::FirstIssue => first,
        VerifyLogin::Always => !matches!(step, TokenStep::Repair | TokenStep::Verify),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_first_token_is_tried_unless_none_and_all_are_if_declared() {
        let renewal = TokenStep::Renew {
            expires: Some(Timestamp::UNIX_EPOCH),
        };
        let anew = TokenStep::Renew { expires: None };
        for (step, verified, tried) in [
            (TokenStep::Issue, false, [false, true, true]),
            (renewal, false, [false, true, true]),
            (renewal, true, [false, false, true]),
            // Another identity, or a Secret that was overwritten.
            (anew, true, [false, true, true]),
            (TokenStep::Repair, false, [false, false, false]),
            (TokenStep::Verify, false, [false, false, false]),
        ] {
            use VerifyLogin::{Always, FirstIssue, Never};
            let is = [Never, FirstIssue, Always].map(|v| before_publishing(v, step, verified));
            assert_eq!(is, tried, "{step:?}, verified: {verified}");
        }
    }
}
