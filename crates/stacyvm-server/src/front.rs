pub(crate) use crate::state::{ServerState as Front, SharedState as Shared};
