//! Turns what an exchange brought back into a failure: class, reason and a sentence that says what
//! to do. Must not send anything. What varies between equal answers (times, trace ids) stays out of
//! the sentence, or a status would be written for each attempt.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::breaker::Signal;
use super::claims::Subject;
use super::complaint::{self, Complaint};
use super::transport::{Answer, Problem, Record, is_success};
use crate::model::{Class, Cloud, Failure, Reason};

/// The pause when an authority asks for one and does not say how long.
const DEFAULT_THROTTLE: Duration = Duration::from_secs(30);
/// The same for IMDS, which never says it and forgives within seconds.
const IMDS_THROTTLE: Duration = Duration::from_secs(5);
/// IMDS answers 410 while it is upgraded, for at most this long.
const IMDS_UPGRADE: Duration = Duration::from_secs(70);

/// Who asked for what, for the messages. Prints as who.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) whom: String,
    /// Client and tenant; empty for managed identities.
    pub(super) client: String,
    pub(super) tenant: String,
    pub(super) cloud: Arc<Cloud>,
    /// Asked at IMDS, not at the authority.
    pub(super) managed: bool,
    /// Asked for the node's own identity, which has no id.
    pub(super) system_assigned: bool,
    /// A client secret was shown, no assertion.
    pub(super) with_secret: bool,
    /// Of the client certificate, if there is one.
    pub(super) thumbprint: Option<String>,
    /// What the assertion said of itself.
    pub(super) subject: Option<Subject>,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whom)
    }
}

/// What an exchange that gave no token says about the other side.
pub(super) fn signal(record: &Record, failure: &Failure, managed: bool) -> Signal {
    let throttled = failure.reason == Reason::EntraThrottled;
    match record {
        Record::Unsent | Record::Failed(Problem::CaFile(..) | Problem::Unsendable(_)) => {
            Signal::NotSent
        }
        // A node's IMDS counts all requests together.
        _ if throttled && !managed => {
            Signal::Throttled(failure.retry_after.unwrap_or(DEFAULT_THROTTLE))
        }
        _ if failure.class != Class::Transient => Signal::Answered,
        // What is between answers so to this request, perhaps not to others.
        Record::Failed(Problem::Garbled) => Signal::ClientFailed,
        Record::Answered(answer) if answer.is_of_another(managed) => Signal::ClientFailed,
        _ => Signal::AuthorityFailed(failure.retry_after),
    }
}

/// The failure of an exchange that gave no token.
pub(super) fn failure(asked: &Asked, record: &Record, now: Timestamp) -> Failure {
    match record {
        Record::Answered(answer) => asked.answered(answer, now),
        Record::Failed(problem) => asked.unanswered(problem),
        Record::Sent => asked.unanswered(&Problem::Timeout),
        Record::Unsent => asked.unasked(),
    }
}

impl Answer {
    /// Whether something between answered: with a status that blames the request, and no error of
    /// Entra or IMDS. 404 and 410 without an error are IMDS's own.
    fn is_of_another(&self, managed: bool) -> bool {
        let complaint = Complaint::read(&self.body);
        let blames = match self.status {
            404 | 410 => !managed,
            status => !matches!(status, 408 | 429 | 500..),
        };
        blames && complaint.code.is_none() && complaint.error.is_none()
    }
}

impl Asked {
    /// Where the token was asked for.
    pub(super) fn target(&self) -> String {
        let cloud = &self.cloud;
        if self.managed {
            let endpoint = cloud.imds_endpoint.as_deref();
            format!("IMDS at {}", endpoint.unwrap_or(super::lane::IMDS_ENDPOINT))
        } else {
            format!("Entra at {}", cloud.authority.trim_end_matches('/'))
        }
    }

    /// The SDK would not even make a request.
    fn unasked(&self) -> Failure {
        let target = self.target();
        let advice = if self.managed {
            "the operator's environment names another kind of host: remove the variables \
             IDENTITY_ENDPOINT, IMDS_ENDPOINT and MSI_ENDPOINT"
                .to_owned()
        } else {
            let cloud = &self.cloud.name;
            format!(
                "the client id is empty, or the authority of cloud {cloud} in the operator's \
                 configuration is not an https URL"
            )
        };
        let message = format!("{self} could not ask {target}: {advice}");
        Failure::new(Class::Denied, Reason::EntraUnavailable, message)
    }

    /// The HTTP library would not send it.
    fn unsendable(&self, text: &str) -> Failure {
        let message = format!(
            "the request of {self} to {} cannot be made ({text}): correct the ids of the identity, or \
             the operator's configuration of cloud {}",
            self.target(),
            self.cloud.name
        );
        Failure::new(Class::Denied, Reason::EntraUnavailable, message)
    }

    fn answered(&self, answer: &Answer, now: Timestamp) -> Failure {
        let complaint = Complaint::read(&answer.body);
        let retry_after = answer.retry_after.as_deref();
        let sent = answer.date.as_deref().and_then(complaint::date);
        let retry_after = retry_after.and_then(|text| complaint::pause(text, sent.unwrap_or(now)));
        let target = self.target();
        match (answer.status, complaint.code) {
            (429, _) | (_, Some(90055 | 50196)) => {
                let message = format!("{target} asked the operator to slow down");
                let default = if self.managed {
                    IMDS_THROTTLE
                } else {
                    DEFAULT_THROTTLE
                };
                Failure::new(Class::Transient, Reason::EntraThrottled, message)
                    .retry_after(retry_after.unwrap_or(default))
            }
            // Whatever the body says. IMDS answers 404 while it is updated, 410 while it is upgraded.
            (404, _) if self.managed => self.useless(answer.status, None),
            (410, _) if self.managed => self.useless(answer.status, Some(IMDS_UPGRADE)),
            (408 | 500.., _) | (_, Some(90006 | 90012 | 90024 | 90033 | 90090)) => {
                self.useless(answer.status, retry_after)
            }
            _ if complaint.error.as_deref() == Some("temporarily_unavailable") => {
                self.useless(answer.status, retry_after)
            }
            (status, _) if is_success(status) => self.unanswered(&Problem::Garbled),
            (_, Some(code)) => self.refused(code, &complaint.quote),
            (status, None) if self.managed => self.refused_by_imds(status, &complaint),
            (status, None) => self.refused_without_number(status, &complaint),
        }
    }

    fn refused_without_number(&self, status: u16, complaint: &Complaint) -> Failure {
        let Some(error) = &complaint.error else {
            return self.answered_by_another(status, "Entra", "proxy or firewall");
        };
        let quote = format!("{error}: {}", complaint.quote);
        self.denied(Reason::EntraRefused, "refused the identity", &quote)
    }

    /// Such an answer comes from something between, not from who was asked.
    fn answered_by_another(&self, status: u16, whose: &str, what: &str) -> Failure {
        let message = format!(
            "{} answered {self} with status {status} and no error of {whose}: look for a {what} \
             between",
            self.target()
        );
        Failure::new(Class::Transient, Reason::EntraUnavailable, message)
    }

    fn useless(&self, status: u16, retry_after: Option<Duration>) -> Failure {
        let message = format!(
            "{} answered {self} with status {status}, which usually passes by itself",
            self.target()
        );
        Failure {
            retry_after,
            ..Failure::new(Class::Transient, Reason::EntraUnavailable, message)
        }
    }

    fn unanswered(&self, problem: &Problem) -> Failure {
        let target = self.target();
        let cloud = &self.cloud.name;
        let text = match problem {
            Problem::Certificate(text) => format!(
                "the certificate of {target} is not trusted ({text}): if a company proxy stands between, put \
                 its CA into the file that --ca-bundle names; if cloud {cloud} has an authority of its \
                 own, into its caFile"
            ),
            Problem::CaFile(what, text) => format!(
                "{what} cannot be used for cloud {cloud} ({text}): correct the operator's \
                 configuration"
            ),
            Problem::Timeout if self.managed => format!(
                "{target} did not answer in time: managed identities work only on an Azure node \
                 whose pods may reach IMDS"
            ),
            Problem::Timeout => {
                format!("{target} did not answer in time: compare network policies and proxies")
            }
            Problem::Connection(text) if self.managed => format!(
                "{target} cannot be reached ({text}): managed identities work only on an Azure \
                 node whose pods may reach IMDS"
            ),
            Problem::Connection(text) => {
                format!(
                    "{target} cannot be reached ({text}): compare network policies, HTTPS_PROXY and \
                     NO_PROXY"
                )
            }
            Problem::Unsendable(text) => return self.unsendable(text),
            Problem::Garbled => format!(
                "{target} gave {self} an answer that has no token and cannot be read: look for a \
                 proxy between"
            ),
        };
        Failure::new(Class::Transient, Reason::EntraUnavailable, text)
    }

    fn refused_by_imds(&self, status: u16, complaint: &Complaint) -> Failure {
        let Some(error) = &complaint.error else {
            let what = "proxy, sidecar or network policy";
            return self.answered_by_another(status, "IMDS", what);
        };
        if status == 400 && self.is_unknown_to_node(&complaint.quote) {
            let advice = if self.system_assigned {
                "is not there: switch the system-assigned identity of the node's virtual \
                 machine scale set on, or name a user-assigned one in managedIdentity"
            } else {
                "is not assigned to the node: assign it to the node's virtual machine scale \
                 set, or correct the id"
            };
            let message = format!("{self} {advice}");
            return Failure::new(Class::Denied, Reason::IdentityNotAssigned, message);
        }
        let said = match complaint.quote.as_str() {
            "" => error.clone(),
            quote => format!("{error}: {quote}"),
        };
        let message = format!(
            "{self} got no token from {}, which refused the request with status {status} ({said}): \
             correct what it names; assigning the identity anew does not help",
            self.target()
        );
        Failure::new(Class::Denied, Reason::EntraRefused, message)
    }

    /// Without an id IMDS takes the system-assigned identity, or else the only one.
    fn is_unknown_to_node(&self, said: &str) -> bool {
        let said = said.to_lowercase();
        said.contains("identity not found")
            || (self.system_assigned && said.contains("multiple user assigned identities"))
    }
}

#[cfg(test)]
#[path = "tests/error.rs"]
mod tests;
