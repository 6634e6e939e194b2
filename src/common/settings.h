/*
 * common/settings.h
 *		The avcurate.* settings (README, "Settings").
 */
#ifndef AVC_COMMON_SETTINGS_H
#define AVC_COMMON_SETTINGS_H

extern char *avc_device;				/* "auto", "cpu", "cuda:N", "cuda:0,1" or
									 * "cuda:all" */
extern int	avc_threads;				/* 0 = all cores */
extern int	avc_detector;				/* checkpoint number, 0 = unset */
extern int	avc_clip_model;				/* checkpoint number, 0 = unset */
extern int	avc_max_workers;			/* jobs running at once */
extern int	avc_max_device_jobs;		/* 0 = one on a GPU, any number on the CPU */
extern int	avc_retry_delay;			/* milliseconds, 0 = no retries */
extern int	avc_launcher_interval;		/* seconds */
extern int	avc_engine_idle_timeout;	/* seconds */
extern int	avc_engine_stall_timeout;	/* seconds, 0 = never */
extern int	avc_engine_memory_limit;	/* megabytes, 0 = half of the memory */
extern char *avc_engine_path;			/* "" = beside the server's programs */
/* share of a dataset's rows from which on a changed slice is recomputed */
extern double avc_refresh_full_threshold;

extern void avc_settings_define(void);

/* avcurate.engine_memory_limit in bytes, its default worked out. */
extern int64 avc_engine_memory_bytes(void);

/* The same of a GPU's memory; 0: the engine knows how much it has. */
extern int64 avc_engine_device_memory_bytes(void);

#endif
