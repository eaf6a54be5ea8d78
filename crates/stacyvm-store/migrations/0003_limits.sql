-- Cores may be parts of one: hundredths from here on, also in the rows that are there.
ALTER TABLE sandbox RENAME COLUMN vcpus TO vcpu_hundredths;
UPDATE sandbox SET vcpu_hundredths = min(vcpu_hundredths, 4096) * 100;
ALTER TABLE quota RENAME COLUMN max_vcpus TO max_vcpu_hundredths;
UPDATE quota SET max_vcpu_hundredths = min(max_vcpu_hundredths, 4096) * 100;

-- What a sandbox may write to its disk, MiB. NULL is no limit of its own.
ALTER TABLE sandbox ADD COLUMN disk_mb INTEGER;
ALTER TABLE quota ADD COLUMN max_disk_mb INTEGER;
