//! What the operator tells about itself: logs and metrics. Nothing secret, ever.

mod heartbeats;
mod labels;
pub mod logs;
mod metrics;

pub use heartbeats::Heartbeats;
pub use labels::{ConditionStatus, ObjectKind, ReconcileResult};
pub use metrics::{Metrics, ServerCounts};
