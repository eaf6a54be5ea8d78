//! What the sandboxes of this machine go without, in sentences for the person who runs the server.

use parking_lot::Mutex;

/// The degradations of one provider: those of the machine, and those of the last launch.
#[derive(Debug)]
pub(crate) struct Degradations {
    machine: Vec<String>,
    reported: Mutex<Vec<String>>,
}

impl Degradations {
    /// Starts with the machine's.
    pub(crate) fn new(machine: Vec<String>) -> Self {
        Self {
            reported: Mutex::new(machine.clone()),
            machine,
        }
    }

    /// Takes those of a launch in the place of the launch before, and logs what has changed.
    pub(crate) fn report_launch(&self, mut found: Vec<String>) {
        found.extend(self.machine.iter().cloned());
        let mut reported = self.reported.lock();
        if *reported != found {
            for sentence in &found {
                tracing::warn!(detail = %sentence, "sandboxes have less than they could");
            }
            *reported = found;
        }
    }

    /// All degradations, one sentence each.
    pub(crate) fn all(&self) -> Vec<String> {
        self.reported.lock().clone()
    }
}
