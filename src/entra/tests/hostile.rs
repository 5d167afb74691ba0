//! Whatever Entra, a proxy or a node's IMDS sends, reading it ends without a panic and costs what it is
//! long.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::entra::claims::{self, Subject};
use crate::entra::complaint;
use crate::entra::error::{self, Asked};
use crate::entra::transport::{Answer, Record};
use crate::model::testing::cost;

/// What reading holds at once for each byte, what it takes in all, and a fixed part.
const PEAK: u64 = 24;
const TOTAL: u64 = 120;
const FIXED: u64 = 100_000;
/// No sentence for a condition is longer, whatever was sent.
const LONGEST_MESSAGE: usize = 2_500;

/// One piece many times: what makes a reader work twice is seldom there once.
fn repeated() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[".to_owned()),
        Just("{\"a\":".to_owned()),
        Just("\\u0027".to_owned()),
        Just("AADSTS7".to_owned()),
        Just("eyJ".to_owned()),
        Just(" Trace ID:".to_owned()),
        Just("\r\n".to_owned()),
        Just("9".to_owned()),
        Just("\"".to_owned()),
        "\\PC{1,9}",
    ];
    (piece, 1_usize..6_000).prop_map(|(piece, times)| piece.repeat(times))
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => repeated(),
        1 => vec(repeated(), 0..4).prop_map(|parts| parts.concat()),
        1 => "\\PC{0,400}",
        1 => Just(String::new()),
    ]
}

fn any_body() -> impl Strategy<Value = String> {
    let codes = vec(any::<u64>(), 0..2_000);
    let whole = (any_text(), any_text(), codes).prop_map(|(error, description, codes)| {
        serde_json::json!({"error": error, "error_description": description, "error_codes": codes})
            .to_string()
    });
    prop_oneof![whole, any_text()]
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    // Red when: a part of an answer gets into the message as long as it is, or is read again for each part.
    #[test]
    fn any_error_body_costs_its_length_and_becomes_a_sentence(
        body in any_body(),
        status in prop_oneof![Just(400_u16), Just(401), Just(429), Just(500), 100_u16..999],
        retry_after in proptest::option::of(any_text()),
        managed in any::<bool>(),
    ) {
        let size = (body.len() + retry_after.as_ref().map_or(0, String::len)) as u64;
        let asked = Asked { managed, ..Asked::for_test() };
        let record = Record::Answered(Answer { status, retry_after, date: None, body });
        let mut message = String::new();
        // Expressions are made when they are first needed.
        let _warm = error::failure(&asked, &record, now());
        let cost = cost(|| {
            let failure = error::failure(&asked, &record, now());
            let _signal = error::signal(&record, &failure, managed);
            message = failure.message;
        });
        prop_assert!(cost.peak <= PEAK * size + FIXED, "{size} bytes took {} at once", cost.peak);
        prop_assert!(cost.total <= TOTAL * size + FIXED, "{size} bytes took {}", cost.total);
        prop_assert!(message.len() <= LONGEST_MESSAGE, "{} bytes", message.len());
        prop_assert!(!message.contains("eyJ"), "{message}");
    }

    // Red when: a claim gets into the message as long as it is.
    #[test]
    fn any_token_costs_its_length_and_is_taken_or_refused(
        claims in prop_oneof![
            any_text(),
            (any_text(), any_text(), any_text(), any::<f64>(), any_text()).prop_map(
                |(aud, tid, oid, exp, mirid)| serde_json::json!({"aud": aud, "tid": tid, "oid": oid,
                    "exp": exp, "xms_mirid": mirid}).to_string()
            ),
            any_text().prop_map(|mirid| serde_json::json!({"aud": "r", "tid": "t", "oid": "o", "exp": 9e9,
                "xms_mirid": format!("/microsoft.managedidentity/userassignedidentities/{mirid}")}).to_string()),
        ],
        system_assigned in any::<bool>(),
    ) {
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(&claims));
        let size = token.len() as u64;
        let asked = Asked { system_assigned, ..Asked::for_test() };
        let mut message = String::new();
        let cost = cost(|| {
            let _subject = Subject::read(&token);
            if let Err(failure) = claims::check(token, "r", None, now(), &asked) {
                message = failure.message;
            }
        });
        prop_assert!(cost.peak <= PEAK * size + FIXED, "{size} bytes took {} at once", cost.peak);
        prop_assert!(cost.total <= TOTAL * size + FIXED, "{size} bytes took {}", cost.total);
        prop_assert!(message.len() <= LONGEST_MESSAGE, "{} bytes", message.len());
    }

    #[test]
    fn any_header_is_a_pause_of_an_hour_at_most_or_none(text in any_text()) {
        let pause = complaint::pause(&text, now());
        prop_assert!(pause.is_none_or(|pause| pause.as_secs() <= 3600));
        let _date = complaint::date(&text);
    }
}
