//! The limits of a container, read from what the engine was asked for or reports.

use bollard::models::HostConfig;

/// The limits of one container; 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ContainerLimits {
    /// Bytes.
    pub(crate) memory: u64,
    /// Cores.
    pub(crate) cpus: f64,
    /// Processes and threads.
    pub(crate) pids: u64,
    /// Bytes.
    pub(crate) disk: u64,
}

impl From<&HostConfig> for ContainerLimits {
    fn from(host: &HostConfig) -> Self {
        let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let size = host
            .storage_opt
            .as_ref()
            .and_then(|options| options.get("size"));
        let disk = size.and_then(|size| size.strip_suffix('m')?.parse::<u64>().ok());
        Self {
            memory: number(host.memory).unwrap_or(0),
            cpus: number(host.nano_cpus).unwrap_or(0) as f64 / 1e9,
            pids: number(host.pids_limit).unwrap_or(0),
            disk: disk.unwrap_or(0).saturating_mul(1024 * 1024),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_the_engines_units() {
        let host = HostConfig {
            memory: Some(512 << 20),
            nano_cpus: Some(1_500_000_000),
            pids_limit: Some(100),
            storage_opt: Some([("size".to_owned(), "64m".to_owned())].into()),
            ..HostConfig::default()
        };
        let limits = ContainerLimits {
            memory: 512 << 20,
            cpus: 1.5,
            pids: 100,
            disk: 64 << 20,
        };
        assert_eq!(ContainerLimits::from(&host), limits);
        let unlimited = HostConfig {
            memory: Some(0),
            pids_limit: Some(-1),
            ..HostConfig::default()
        };
        assert_eq!(
            ContainerLimits::from(&unlimited),
            ContainerLimits::default()
        );
    }
}
