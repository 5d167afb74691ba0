//! The values that labels of metrics can have: enums, so that series stay few.

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value of the label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                self.as_str().encode(encoder)
            }
        }
    };
}

label!(
    /// Which of our kinds.
    ObjectKind {
        /// `EntraPostgresServer`.
        Server => "EntraPostgresServer",
        /// `EntraPostgresPrincipal`.
        Principal => "EntraPostgresPrincipal",
    }
);
label!(
    /// The status of a condition.
    ConditionStatus {
        /// It holds.
        True => "True",
        /// It does not.
        False => "False",
        /// It is not known.
        Unknown => "Unknown",
    }
);
label!(
    /// How a reconcile ended.
    ReconcileResult {
        /// As declared.
        Settled => "settled",
        /// Something must happen first.
        Waiting => "waiting",
        /// Tried again soon.
        Transient => "transient",
        /// Refused by Azure, the server or the cluster.
        Denied => "denied",
        /// The object is wrong.
        Invalid => "invalid",
        /// A defect of the operator.
        Panicked => "panicked",
    }
);
