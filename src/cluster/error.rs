//! Turns errors of the Kubernetes API into failures: one sentence and what it asks for.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use kube::Resource;
use kube::core::Status;

use crate::model::{Class, Failure, Reason};

/// More than this of somebody else's sentence helps nobody.
const LONGEST_QUOTE: usize = 400;

/// One request to the API server, for the sentence when it fails.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    verb: &'static str,
    kind: String,
    resource: String,
    group: String,
    namespace: String,
    name: String,
}

impl Call {
    /// A request about one object of a kind; the namespace is empty for cluster-scoped kinds.
    pub(crate) fn on<K: Resource<DynamicType = ()>>(
        verb: &'static str,
        namespace: &str,
        name: &str,
    ) -> Self {
        Self {
            verb,
            kind: K::kind(&()).into_owned(),
            resource: K::plural(&()).into_owned(),
            group: K::group(&()).into_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The same on a subresource, for example `serviceaccounts/token`.
    pub(crate) fn subresource(self, name: &str) -> Self {
        let resource = format!("{}/{name}", self.resource);
        Self { resource, ..self }
    }

    /// What the error means for us.
    pub(crate) fn failure(&self, error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) => self.refused(status),
            // Neither error shows the text that could not be read: it may be a Secret.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => self
                .transient("the answer of the Kubernetes API could not be read; it is tried again"),
            other => self.transient(&format!(
                "the Kubernetes API did not answer: {}",
                cut(&causes(other))
            )),
        }
    }

    fn transient(&self, text: &str) -> Failure {
        let message = format!("could not {self}: {text}");
        Failure::new(Class::Transient, Reason::ApiError, message)
    }

    fn refused(&self, status: &Status) -> Failure {
        if is_terminating(status) {
            let message = format!(
                "could not {self}: namespace {} is being deleted, and nothing can be made there any more",
                self.namespace
            );
            return Failure::new(Class::Denied, Reason::NamespaceTerminating, message);
        }
        let class = match status.code {
            401 | 403 => Class::Denied,
            400 | 405 | 413 | 415 | 422 => Class::Invalid,
            _ if status.is_forbidden() => Class::Denied,
            _ if status.is_invalid() => Class::Invalid,
            _ => Class::Transient,
        };
        let failure = Failure::new(class, Reason::ApiError, self.sentence(status));
        match status.details.as_ref().map(|d| d.retry_after_seconds) {
            Some(seconds) if seconds > 0 => {
                failure.retry_after(Duration::from_secs(u64::from(seconds)))
            }
            _ => failure,
        }
    }

    fn sentence(&self, status: &Status) -> String {
        let lacks_right = status.is_forbidden()
            && status
                .message
                .contains(&format!("cannot {} resource", self.verb));
        if !lacks_right {
            let text = if status.message.is_empty() {
                &status.reason
            } else {
                &status.message
            };
            return format!(
                "could not {self}: the Kubernetes API answered {}: {}",
                status.code,
                cut(text)
            );
        }
        let (place, role) = if self.namespace.is_empty() {
            ("in the cluster".to_owned(), "ClusterRole")
        } else {
            let place = format!("in namespace \"{}\"", self.namespace);
            (place, "Role or ClusterRole")
        };
        format!(
            "could not {self}: the operator's service account may not {} {} {place}: add the verb \
             \"{}\" on resource \"{}\" of API group \"{}\" to its {role}",
            self.verb, self.resource, self.verb, self.resource, self.group
        )
    }
}

/// Whether a refusal says that the namespace is being deleted.
fn is_terminating(status: &Status) -> bool {
    let details = status.details.as_ref();
    let causes = details.map(|details| details.causes.as_slice());
    let mut causes = causes.unwrap_or_default().iter();
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, kind, .. } = self;
        match self.resource.split_once('/') {
            Some((_, subresource)) => write!(f, "{verb} the {subresource} of {kind} ")?,
            None => write!(f, "{verb} {kind} ")?,
        }
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// The error and its causes in one line, without those that say the same again.
pub(crate) fn causes(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

/// At most [`LONGEST_QUOTE`] bytes of a text.
fn cut(text: &str) -> &str {
    shortened(text, LONGEST_QUOTE)
}

/// The longest beginning of a text that fits into so many bytes.
pub(crate) fn shortened(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;

    use super::*;

    fn refusal(code: u16, reason: &str, message: &str) -> Failure {
        let status = Status::failure(message, reason).with_code(code).boxed();
        Call::on::<Secret>("get", "orders", "app").failure(&kube::Error::Api(status))
    }

    #[test]
    fn the_class_follows_the_code() {
        for (code, reason, class) in [
            (401, "Unauthorized", Class::Denied),
            (403, "Forbidden", Class::Denied),
            (409, "Conflict", Class::Transient),
            (422, "Invalid", Class::Invalid),
            (429, "TooManyRequests", Class::Transient),
            (500, "InternalError", Class::Transient),
            (503, "ServiceUnavailable", Class::Transient),
            (0, "", Class::Transient),
        ] {
            let failure = refusal(code, reason, "no");
            assert_eq!(failure.class, class, "{code}");
            assert_eq!(failure.reason, Reason::ApiError);
            assert!(failure.message.contains("get Secret orders/app"));
        }
    }

    #[test]
    fn a_missing_right_is_named() {
        let failure = refusal(
            403,
            "Forbidden",
            "secrets \"app\" is forbidden: User \"system:serviceaccount:epo:epo\" cannot get \
             resource \"secrets\" in API group \"\" in the namespace \"orders\"",
        );
        assert_eq!(
            failure.message,
            "could not get Secret orders/app: the operator's service account may not get secrets in \
             namespace \"orders\": add the verb \"get\" on resource \"secrets\" of API group \"\" to \
             its Role or ClusterRole"
        );
    }

    #[test]
    fn another_refusal_keeps_the_servers_words() {
        let message = "unable to create new content in namespace orders because it is being \
                       terminated";
        assert!(refusal(403, "Forbidden", message).message.contains(message));
    }

    #[test]
    fn a_namespace_that_goes_is_a_reason_of_its_own() {
        let status: Status = serde_json::from_value(serde_json::json!({
            "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "secrets \"app\" is forbidden: unable to create new content in namespace orders \
                        because it is being terminated",
            "details": {"name": "app", "kind": "secrets", "causes": [{
                "reason": "NamespaceTerminating", "message": "namespace orders is being terminated",
                "field": "metadata.namespace"}]},
        }))
        .expect("a status");
        let failure = Call::on::<Secret>("create", "orders", "app")
            .failure(&kube::Error::Api(status.boxed()));
        assert_eq!(failure.reason, Reason::NamespaceTerminating);
        assert_eq!(failure.class, Class::Denied);
        assert!(
            failure
                .message
                .contains("namespace orders is being deleted"),
            "{failure}"
        );
    }

    #[test]
    fn an_unreadable_answer_is_not_quoted() {
        let broken = serde_json::from_str::<u8>("\"hunter2\"").expect_err("not a number");
        assert!(
            broken.to_string().contains("hunter2"),
            "the danger is real: {broken}"
        );
        let failure =
            Call::on::<Secret>("get", "orders", "app").failure(&kube::Error::SerdeError(broken));
        assert!(!failure.message.contains("hunter2"));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shortened("aüb", 2), "a");
        assert_eq!(shortened("aüb", 3), "aü");
        assert_eq!(shortened("aüb", 30), "aüb");
    }
}
